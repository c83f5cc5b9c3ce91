"""How the C library's allocator treats what a worker frees."""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
_M_ARENA_MAX: Final = -8


def keep_freed_memory(*, one_arena: bool = False) -> None:
    """Have malloc keep what is freed, instead of giving it back and asking for it again.

    A worker needs buffers of the same few sizes round after round. glibc gives a large one back to
    the system when it is freed, and each page of the next costs a fault: 2 GB/s instead of 15,
    more than a third of a client's processor time in a round. The price is that a process stays
    as large as it once was; with ``one_arena`` all its threads share what was freed, which suits
    threads that take turns. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        if one_arena:
            mallopt(_M_ARENA_MAX, 1)
