"""The ledger on the disk: JSON lines, each on the disk before what it tells of is given away.

The first line names the keys it was made with. Each line has a digest of itself and all before it,
so a line that was changed or taken out is noticed. What a crash left of a line that was being
written has no end, and is dropped: nothing was given away for it. When the file is large it is
written anew, with what is still needed of each run.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from blake3 import blake3

from keeper_worker.ledger.entries import Entry
from keeper_worker.ledger.history import History, RunHistory
from warren_shared.errors import ConfigError
from warren_shared.files import PRIVATE, flush, flush_folder, replacing
from warren_shared.observability.log import Log

log = Log(__name__)

FILE: Final = "ledger.jsonl"
FORMAT: Final = 1
LARGE_BYTES: Final = 8 << 20
_CHAIN: Final = "chain"
_CHAIN_DIGITS: Final = 32


def create(folder: Path, key: str) -> None:
    """An empty ledger for the keys of which ``key`` is one's id.

    Raises:
        OSError: it cannot be written.
        ConfigError: there is one that says something already.
    """
    path = folder / FILE
    if path.exists() and path.read_bytes().count(b"\n") > 1:
        raise ConfigError(
            f"{path} is the ledger of other keys, which are gone: name another --state-dir, or"
            " restore them from a backup"
        )
    _write(folder, [{"format": FORMAT, "key": key}])


def read_history(folder: Path, key: str) -> History:
    """What the ledger in ``folder`` says, and nothing of it is changed; as `Journal.open`."""
    journal = Journal(folder, key)
    try:
        journal.read()
    except OSError as error:
        raise ConfigError(f"{folder / FILE} cannot be read: {error.strerror}") from None
    return journal.history


class Journal:
    """The ledger in a folder, of which the caller has the lock; ``open`` reads it."""

    def __init__(self, folder: Path, key: str, large_bytes: int = LARGE_BYTES) -> None:
        self.history = History()
        self._folder = folder
        self._key = key
        self._large_bytes = large_bytes
        self._descriptor = -1
        self._size = self._least = 0  # bytes, and as many after the file was written anew
        self._chain = ""
        self._is_torn = False  # a line was begun that is not whole

    @classmethod
    def open(cls, folder: Path, key: str, large_bytes: int = LARGE_BYTES) -> Self:
        """The ledger in ``folder``, made with ``key``.

        Raises:
            ConfigError: it is gone, damaged or of other keys.
        """
        made = cls(folder, key, large_bytes)
        try:
            made.read()
            made._descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND)
            made._cut()
            flush_folder(folder)
        except OSError as error:
            raise ConfigError(f"{folder / FILE} cannot be used: {error.strerror}") from None
        return made

    def read(self) -> None:
        """Read the file into the history.

        Raises:
            ConfigError: it is gone, damaged or of other keys.
        """
        path = self._folder / FILE
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise ConfigError(
                f"{path} is gone, and what was given away must not be forgotten: restore it, or"
                " make new keys in another --state-dir, which ends the run"
            ) from None
        end = raw.rfind(b"\n") + 1
        if end < len(raw):
            log.warning(
                "torn_line", "%s: the last line was not written whole, and is dropped", path
            )
        self._size = end
        for number, told in self._lines(raw[:end]):
            try:
                self._take(number, told)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise self._damaged(number) from None
        if not end:
            raise self._damaged(1)

    def append(self, entry: Entry) -> None:
        """Have ``entry`` on the disk, and in the history.

        Raises:
            OSError: the disk does not take it; nothing has changed.
        """
        line, chain = _line({"revealed": entry.to_dict()}, self._chain)
        if self._is_torn:
            self._cut()
        self._is_torn = True
        _write_all(self._descriptor, line)
        flush(self._descriptor)
        self._is_torn = False
        self._size += len(line)
        self._chain = chain
        self.history.take(entry)
        if self._size > max(self._large_bytes, 4 * self._least):
            self._write_anew()

    def close(self) -> None:
        """Give the file up."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _cut(self) -> None:
        """Take away what is behind the last whole line."""
        os.ftruncate(self._descriptor, self._size)
        flush(self._descriptor)

    def _lines(self, raw: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(raw.splitlines(), 1):
            try:
                told = json.loads(line)
                chain = told.pop(_CHAIN)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise self._damaged(number) from None
            self._chain = _digest(told, self._chain)
            if chain != self._chain:
                raise self._damaged(number)
            yield number, told

    def _take(self, number: int, told: dict[str, Any]) -> None:
        if number == 1:
            if told["format"] != FORMAT:
                raise ConfigError(f"{self._folder / FILE} is of a newer Warren: upgrade the keeper")
            if told["key"] != self._key:
                raise ConfigError(
                    f"{self._folder / FILE} is the ledger of other keys than those beside it:"
                    " restore both from one backup"
                )
        elif "run" in told:
            run = RunHistory.from_dict(told["run"])
            self.history.runs[run.newest.run] = run
        else:
            self.history.take(Entry.from_dict(told["revealed"]))

    def _damaged(self, number: int) -> ConfigError:
        return ConfigError(
            f"{self._folder / FILE}, line {number}, is damaged, and what was given away must not be"
            " forgotten: restore the newest file, or make new keys in another --state-dir, which"
            " ends the run"
        )

    def _write_anew(self) -> None:
        lines = [{"format": FORMAT, "key": self._key}]
        lines += [{"run": run.to_dict()} for run in self.history.runs.values()]
        path = self._folder / FILE
        try:
            size, chain = _write(self._folder, lines)
        except OSError as error:
            if path.stat().st_ino != os.fstat(self._descriptor).st_ino:
                raise RuntimeError(f"{path} was replaced, and may not be on the disk") from error
            log.warning("ledger_not_compacted", "the ledger grows: %s", error)
            self._least = self._size
            return
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:  # what is revealed next must not go to the file that is gone
            raise RuntimeError(f"{path} cannot be opened again") from error
        os.close(self._descriptor)
        self._descriptor, self._chain = descriptor, chain
        self._size = self._least = size


def _write(folder: Path, lines: list[dict[str, Any]]) -> tuple[int, str]:
    """Replace the file by ``lines``; return its size and the digest of its last line."""
    size, chain = 0, ""
    with replacing(folder / FILE, mode=PRIVATE) as path, path.open("wb") as file:
        for told in lines:
            line, chain = _line(told, chain)
            file.write(line)
            size += len(line)
        file.flush()
        flush(file.fileno())
    flush_folder(folder)
    return size, chain


def _line(told: dict[str, Any], chain: str) -> tuple[bytes, str]:
    chain = _digest(told, chain)
    return json.dumps({**told, _CHAIN: chain}, separators=(",", ":")).encode() + b"\n", chain


def _digest(told: dict[str, Any], chain: str) -> str:
    said = chain + json.dumps(told, separators=(",", ":"))
    return blake3(said.encode()).hexdigest()[:_CHAIN_DIGITS]


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
