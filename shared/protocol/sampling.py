"""Which clients train from a version: decided by each client for itself, without a list.

A coordinator that drew clients from a list would need one that is never out of date. A hash that
all can compute needs none, is the same after any restart, and can be checked by anybody.
"""

from typing import Final

from xxhash import xxh3_64

_ALL: Final = 1 << 64


def is_drawn(run: str, version: int, client: str, participation: float) -> bool:
    """Whether ``client`` is among the share ``participation`` of clients drawn for ``version``.

    Each client is drawn with that probability, independently of the others and of other versions
    (Poisson sampling); the run's random id is the seed.
    """
    return xxh3_64(f"{run}/{version}/{client}".encode()).intdigest() < participation * _ALL
