"""What each client said in each round: ``clients.jsonl`` in the checkpoint folder, a round a line.

The checkpoint is written whole each round, so it has the clients of the newest one alone; this file
is appended to. It is bounded: at MAX_BYTES it becomes ``clients.1.jsonl``, in place of that file's
content, so the newest rounds are there. It is written when the checkpoint is: a crash between the
two costs a round's line, and a power cut may cost some.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any, Final, Self

from coordinator_worker.state.round_record import MAX_LISTED, ClientFigures
from warren_shared import strict_json
from warren_shared.files import PRIVATE

NAME: Final = "clients.jsonl"
OLDER: Final = "clients.1.jsonl"
MAX_BYTES: Final = 16 << 20  # of each of the two files
MAX_METRICS: Final = 20  # of a client


@dataclass(frozen=True, slots=True)
class ClientRound:
    """The updates that made ``version``; ``omitted``: how many of them are not listed.

    ``time`` in seconds since the epoch.
    """

    run: str
    version: int
    time: float
    updates: Sequence[ClientFigures]
    omitted: int = 0

    @classmethod
    def of(cls, run: str, version: int, updates: Sequence[ClientFigures]) -> Self:
        """What is kept of a round that has just closed."""
        kept = tuple(_bounded(one) for one in updates[:MAX_LISTED])
        return cls(run, version, time.time(), kept, len(updates) - len(kept))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        told: dict[str, Any] = {"run": self.run, "version": self.version, "time": self.time}
        told["updates"] = [one.to_dict() for one in self.updates]
        return {**told, "omitted": self.omitted} if self.omitted else told

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From what ``to_dict`` gave; raises ValueError, TypeError or KeyError if it did not."""
        updates = tuple(
            ClientFigures(
                client=str(one["client"]),
                base_version=int(one["base_version"]),
                examples=int(one["examples"]),
                norm=None if one["norm"] is None else float(one["norm"]),
                metrics={k: nan if v is None else float(v) for k, v in one["metrics"].items()},
            )
            for one in fields["updates"]
        )
        version, moment = int(fields["version"]), float(fields["time"])
        return cls(str(fields["run"]), version, moment, updates, int(fields.get("omitted", 0)))


def append(folder: Path, closed: ClientRound) -> None:
    """Add a round; raises OSError if the disk does not take it."""
    path = folder / NAME
    line = strict_json.dumps(closed.to_dict(), separators=(",", ":")).encode() + b"\n"
    file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_RDWR, PRIVATE)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":  # torn by a crash, or by a full disk
            line = b"\n" + line
        while line:
            line = line[os.write(file, line) :]
        is_full = os.fstat(file).st_size >= MAX_BYTES
    finally:
        os.close(file)
    if is_full:
        path.replace(folder / OLDER)


def read(folder: Path, run: str) -> list[ClientRound]:
    """The rounds of ``run`` that are still there, by version.

    A version that was made twice, since the coordinator went on from an older copy of its folder,
    is there as it was made last, and what had followed the first is not.
    """
    found: dict[int, ClientRound] = {}
    newest = -1
    for closed in _lines(folder):
        if closed.run != run:
            continue
        if closed.version <= newest:
            found = {v: one for v, one in found.items() if v < closed.version}
        newest = closed.version
        found[newest] = closed
    return [found[version] for version in sorted(found)]


def _lines(folder: Path) -> Iterator[ClientRound]:
    for name in (OLDER, NAME):
        with suppress(FileNotFoundError), (folder / name).open("rb") as file:
            for line in file:
                with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    yield ClientRound.from_dict(json.loads(line))


def _bounded(one: ClientFigures) -> ClientFigures:
    if len(one.metrics) <= MAX_METRICS:
        return one
    kept = dict(islice(one.metrics.items(), MAX_METRICS))
    return ClientFigures(one.client, one.base_version, one.examples, one.norm, kept)
