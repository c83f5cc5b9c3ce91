"""Files that only their owner may read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shared.files import PRIVATE, flush_folder, private_folder, replacing

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["private_folder", "write_private"]


def write_private(path: Path, text: str, mode: int = PRIVATE) -> None:
    """Replace ``path`` in one step by a file of ``mode``, unless it says ``text`` already.

    Never by opening it and changing its mode afterwards: between the two anybody could read a
    password, and a crash would leave half a file. What is already said needs no room on a disk
    that is full.
    """
    private_folder(path.parent)
    if _says(path, text):
        path.chmod(mode)
        return
    # Always the same name: what a kill leaves here is replaced, and no second copy of a secret.
    temporary = path.with_name(f".{path.name}.tmp")
    with replacing(path, temporary, mode=PRIVATE), temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    flush_folder(path.parent)


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (FileNotFoundError, UnicodeDecodeError):
        return False
