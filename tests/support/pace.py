"""How long a test waits, on a machine that has other work, too."""

import os
from typing import Final

# Ends what hangs. Nothing that passes waits as long, so it may be far away.
DEADLINE_S: Final = 120.0


def allow(seconds: float) -> float:
    """``seconds`` is promised on an idle machine; what that is on this one, as busy as it is.

    Times the processes that want each processor just now, and never less.
    """
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
