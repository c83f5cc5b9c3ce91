"""What was begun and must be finished: one empty file for each user that it is about.

Written before the broker is touched, so that the next command, `up` after a power cut included,
knows of it. An empty file finds room on a disk that is full.

``HOME/revoked/NAME``: whose access was taken away. It stays, and is not enrolled whatever
``federation.json`` says, until `enrol` lets it in again. ``HOME/rotating/NAME``, in the home of the
broker's passwords: who is being given another password.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from warren_shared.files import PRIVATE, flush_folder, private_folder
from warren_shared.naming import USER_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Marks:
    """The names of users that are marked in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> tuple[str, ...]:
        """Who is marked, in order."""
        if not self._folder.is_dir():
            return ()
        found = (path.name for path in self._folder.iterdir())
        return tuple(sorted(name for name in found if re.fullmatch(USER_PATTERN, name)))

    def prepare(self) -> None:
        """Make the folder while there is room for it."""
        private_folder(self._folder)

    def put(self, names: Iterable[str]) -> None:
        """Mark ``names``; raises OSError if the disk does not take it."""
        private_folder(self._folder)
        for name in names:
            (self._folder / name).touch(mode=PRIVATE)
        flush_folder(self._folder)

    def drop(self, names: Iterable[str]) -> None:
        """Mark ``names`` no longer."""
        gone = [name for name in names if (self._folder / name).exists()]
        for name in gone:
            (self._folder / name).unlink(missing_ok=True)
        if gone:
            flush_folder(self._folder)


def revoked(home: Path) -> Marks:
    """Whose access was taken away in the federation of ``home``."""
    return Marks(home / "revoked")


def rotating(credentials: Path) -> Marks:
    """Whose password is being replaced in the home ``credentials``, where the passwords are."""
    return Marks(credentials / "rotating")
