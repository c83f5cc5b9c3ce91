"""How large the initial weights may be that a client brings: what this machine can hold of them."""

import os
from collections.abc import Callable
from pathlib import Path

from warren_shared.errors import Rejected


class ModelSizeLimit:
    """Refuses initial weights that are larger than ``--max-model-bytes``.

    Without that setting: than a quarter of what is free on the disk of ``folder`` (the transfer as
    it arrives, two checkpoints, and as much again for past versions) and than a quarter of the
    machine's memory (the model, the sum of a round, and what the server optimizer keeps).
    """

    def __init__(self, folder: Path, most_bytes: int | None = None) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def check(self, size_bytes: int) -> None:
        """Raise Rejected(``size``) if weights of ``size_bytes`` bytes are too large."""
        most = self._most_bytes
        if most is None:
            most = min(_free_bytes(self._folder), _memory_bytes()) // 4
        if size_bytes > most:
            raise Rejected(
                "size",
                f"its model of {size_bytes} bytes is larger than the {most} that are allowed"
                " (--max-model-bytes; without it a quarter of the free disk and of the memory)",
            )


CheckSize = Callable[[int], None]


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
