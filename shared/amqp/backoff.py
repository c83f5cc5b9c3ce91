"""How long to wait before trying again."""

import random
from typing import Final

FIRST_S: Final = 0.2
LONGEST_S: Final = 30.0


def backoff_s(attempt: int) -> float:
    """Seconds to wait after the ``attempt``-th failure in a row (from 1): doubling, capped.

    With jitter: a thousand clients must not return in one instant.
    """
    jitter = random.uniform(0.5, 1.0)  # noqa: S311
    return jitter * min(LONGEST_S, FIRST_S * 2.0 ** min(attempt - 1, 20))
