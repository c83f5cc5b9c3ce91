"""Shifts the wall clock of the process it is found by: by the seconds in the file $CHAOS_CLOCK.

A worker under test has this folder on its path. Jumping the machine's clock instead would need its
owner's rights and hit everything else on it.
"""

import mmap
import os
import struct
import time

if path := os.environ.get("CHAOS_CLOCK"):
    with open(path, "rb") as file:
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    right_time = time.time
    time.time = lambda: right_time() + struct.unpack("d", shared[:8])[0]
