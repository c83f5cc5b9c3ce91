"""The files of an audit log: ``audit.jsonl``, and the older ones that it was rotated into.

An older file is one that was renamed: by us, to ``audit.jsonl-000001``, or by logrotate, to
``audit.jsonl.1`` or ``audit.jsonl-20261129``, also compressed by gzip. Their names say nothing of
their order. Each but the first begins with a line ``continued`` that has the file's number.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from warren_shared.errors import ConfigError

NAME: Final = "audit.jsonl"
CONTINUED: Final = "continued"  # event of a file's first line that says which file it is
_OLDER: Final = re.compile(re.escape(NAME) + r"[.-][0-9][0-9-]*(\.gz)?")
_ATTEMPTS: Final = 20
# Of a file that is no log the first line may be as long as the file.
_FIRST_LINE_BYTES: Final = 16 << 20


def any_of(folder: Path) -> bool:
    """Whether there is a log in ``folder``, rotated away or not."""
    return bool(_paths(folder))


def read(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Each line of the log with its place, such as ``line 3``, oldest first.

    It may be rotated meanwhile: what is read is what was there at the beginning.

    Raises:
        ConfigError: there is no log, or a compressed file is damaged.
    """
    if not any_of(folder):
        raise ConfigError(
            f"there is no {folder / NAME}: name the coordinator's folder with --checkpoint-dir"
        )
    with ExitStack() as stack:
        for _, path, file in _opened(folder, stack):
            where = "" if path.name == NAME else f" of {path.name}"
            with _readable(path):
                for number, line in enumerate(file, start=1):
                    yield f"line {number}{where}", line.rstrip(b"\n")


def size_bytes(folder: Path) -> int | None:
    """How much there is to read; None if unknown, since some of it is compressed."""
    paths = _paths(folder)
    if any(path.suffix == ".gz" for path in paths):
        return None
    return sum(path.stat().st_size for path in paths if path.exists())


def tail(folder: Path, most_bytes: int) -> list[bytes]:
    """The last lines of the older files, about ``most_bytes``, oldest first; none if none is there.

    Raises ConfigError if one cannot be read.
    """
    found: list[bytes] = []
    with ExitStack() as stack:
        for _, path, file in reversed(_opened(folder, stack)):
            if path.name == NAME:
                continue
            with _readable(path):
                if path.suffix != ".gz":
                    file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
                found = [*file.read()[-most_bytes:].splitlines(), *found]
            if sum(map(len, found)) >= most_bytes:
                break
    return found


def number_of(path: Path) -> int:
    """Which file of the log ``path`` is, the first being 1; 0 if nothing is in it.

    Raises ConfigError if it cannot be read.
    """
    with _readable(path), _open(path) as file:
        return _number(file)


def newest_number(folder: Path) -> int:
    """The number of the newest of the older files, 0 if there is none."""
    with ExitStack() as stack:
        older = (number for number, path, _ in _opened(folder, stack) if path.name != NAME)
        return max(older, default=0)


def rotate(folder: Path) -> Path:
    """Rename ``audit.jsonl`` to what it is called from now on, and say so.

    A coordinator that writes it goes on in a new file by itself.

    Raises:
        ConfigError: there is nothing to rotate, or something else has that name.
        OSError: it cannot be renamed.
    """
    path = folder / NAME
    if not path.exists() or not path.stat().st_size:
        raise ConfigError(f"there is no {path}, or nothing in it: nothing to rotate")
    target = folder / f"{NAME}-{number_of(path):06d}"
    if target.exists() or target.with_name(f"{target.name}.gz").exists():
        raise ConfigError(f"{target} is there already: move it away, or give it another number")
    path.rename(target)
    return target


def _paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [each for each in folder.iterdir() if each.name == NAME or _OLDER.fullmatch(each.name)]


def _opened(folder: Path, stack: ExitStack) -> list[tuple[int, Path, BinaryIO]]:
    """The files that have a line, each with its number and opened, oldest first.

    Files that are renamed while we open them could be seen twice, or not at all: then once more.
    """
    for _ in range(_ATTEMPTS):
        with ExitStack() as attempt:
            try:
                opened = [(path, attempt.enter_context(_open(path))) for path in _paths(folder)]
                inodes = [os.fstat(file.fileno()).st_ino for _, file in opened]
                if inodes != [path.stat().st_ino for path, _ in opened]:
                    continue
                if set(_paths(folder)) != {path for path, _ in opened}:
                    continue
            except FileNotFoundError:
                continue
            stack.push(attempt.pop_all())
            numbered = []
            for path, file in opened:
                with _readable(path):
                    numbered.append((_number(file), path, file))
            numbered.sort(key=lambda each: (each[0], each[1].name == NAME, each[1].name))
            return [each for each in numbered if each[0]]
    raise ConfigError(f"{folder / NAME} is renamed again and again: try it when that is over")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _open(path: Path) -> BinaryIO:
    if path.suffix != ".gz":
        return path.open("rb")
    import gzip

    return cast("BinaryIO", gzip.open(path))


def _number(file: BinaryIO) -> int:
    """Which file of the log this is; 0 if nothing is in it."""
    first = file.readline(_FIRST_LINE_BYTES)
    file.seek(0)
    try:
        said = json.loads(first)
    except (ValueError, RecursionError):
        said = None
    number = said.get("file") if isinstance(said, dict) and said.get("event") == CONTINUED else 1
    return number if first and type(number) is int and number > 0 else int(bool(first))
