"""Which version of its task's code a client runs: a short digest, told with each update.

Sites that run other code make one model of different things, and nobody sees it in the weights.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

from warren_shared.version import release

DIGITS: Final = 12  # of the SHA-256: two versions of one task are not taken for each other
MAX_ENTRIES: Final = 100_000  # in a package's folder, which may hold data as well
OURS: Final = ("client_worker", "warren_examples", "warren_shared", "warren_fl")
NO_CODE: Final = ("__pycache__", "site-packages")


def code_of(module_name: str) -> str:
    r"""The version of the code in a task's module, which has been imported.

    A module in a package stands for the whole package, at the top: what it imports from there is
    the task's code as well. The digest is over the ``*.py`` files' paths in the package and their
    contents, so it does not depend on where they are; a line's end counts as ``\n`` (git writes
    ``\r\n`` on Windows). Tasks of ours have the release: ``warren-0.2.0``.

    Returns:
        Hexadecimal digits; empty if the code is in no file, such as a notebook's.
    """
    top, _, _ = module_name.partition(".")
    if top in OURS:
        return f"warren-{release()}"[:32].lower()
    found = sys.modules.get(top)
    if found is None:
        return ""
    try:
        return _digest(sorted(_files(found)))
    except OSError:
        return ""


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    whole = hashlib.sha256()
    is_empty = True
    for name, path in files:
        text = path.read_bytes().replace(b"\r\n", b"\n")
        whole.update(f"{name}\n{len(text)}\n".encode())
        whole.update(text)
        is_empty = False
    return "" if is_empty else whole.hexdigest()[:DIGITS]


def _files(module: ModuleType) -> Iterator[tuple[str, Path]]:
    """Each file's name, the same at every site, and where it is."""
    folders = getattr(module, "__path__", None)
    if folders is None:
        file = getattr(module, "__file__", None)
        if file is not None and file.endswith(".py"):
            yield "", Path(file)
        return
    entries = 0
    for top in folders:
        for folder, inner, names in os.walk(top):
            inner[:] = [name for name in inner if name not in NO_CODE and name[0] != "."]
            entries += len(inner) + len(names)
            if entries > MAX_ENTRIES:
                raise OSError("its folder holds more than code")
            for path in (Path(folder, name) for name in names if name.endswith(".py")):
                yield path.relative_to(top).as_posix(), path
