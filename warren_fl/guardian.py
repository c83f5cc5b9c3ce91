"""Takes a private broker down if the process that it was for ends without doing so.

``python -m warren_fl.guardian FOLDER [remove]`` waits for the end of its standard input. A kernel
that is restarted, or a process that is killed, leaves nothing running.
"""

import os
import shutil
import signal
import sys
from pathlib import Path


def main() -> int:
    """Wait, then clean up what is still there."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its time comes when the others have ended
    folder, *remove = sys.argv[1:]
    while os.read(0, 4096):
        pass
    home = Path(folder) / "broker"
    if home.exists():
        from broker_config.node import lifecycle

        lifecycle.down(home)
    if remove:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
