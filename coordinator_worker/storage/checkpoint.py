"""The checkpoint: the whole State, in the newer of two files that are overwritten in turn.

A file is magic, sequence number, length and XXH3 of a msgpack header, the header, then the weights
and the server optimizer's moments as they lie in memory. It comes into being whole, by a rename,
and from then on the older of the two is overwritten in place: no pages or blocks to allocate
and none to give back, which takes a seventh of the time at 400 MB and a third at 4. A crash
half-way leaves the newer file as it was, and the one that was being written without the digest it
announces. Written last, the file's end says its sequence number again: a file that has its end and
not its digests was not torn by a crash but damaged since.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgpack
from xxhash import xxh3_64

from coordinator_worker.state.enrolled import NOBODY, Enrolled
from coordinator_worker.state.privacy_state import PrivacyState
from coordinator_worker.state.roster import Member, with_codes
from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import Best, State
from warren_shared.errors import ConfigError
from warren_shared.files import PRIVATE, flush, flush_folder, replacing
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import Piece
from warren_shared.protocol.transfer import digest
from warren_shared.tensors.layout import Layout, Role, Tensor, Weights, bytes_of, role_by_name

log = Log(__name__)

FORMAT: Final = 6
MAGIC: Final = b"warren checkpoint 6\n"
# 4 knows no `oldest_base` and no `setup`; neither 4 nor 5 knows a tensor's role.
READABLE: Final = (b"warren checkpoint 4\n", b"warren checkpoint 5\n", MAGIC)
NAMES: Final = ("a.checkpoint", "b.checkpoint")
OLD_NAME: Final = "current.checkpoint"  # of format 1
PREFIX_BYTES: Final = len(MAGIC) + 24
READ_ATTEMPTS: Final = 5
END_BYTES: Final = 20
STEP_BYTES: Final = 64 << 10  # files grow by this much: a new length would be one more disk write


class Checkpoint:
    """The checkpoint in ``folder``; ``state`` is what it holds, None if there is none.

    ``in_use``: somebody else may be writing it.

    ``digest`` is the XXH3 of its weights. ``damaged`` says what is wrong with the newer file, if it
    was whole once: then ``state`` is of the version before.

    Raises ConfigError if there are files but none is a whole checkpoint of a format that we know,
    or one is of a newer format than ours.
    """

    def __init__(self, folder: Path, *, in_use: bool = False) -> None:
        self._paths = [folder / name for name in NAMES]
        self._target = self._paths[0]
        self._sequence = 0
        self._in_use = in_use
        self.digest = 0
        self.damaged = ""
        self.state = self._load()

    def save(self, state: State) -> None:
        """Replace the checkpoint; when this returns it survives a power cut."""
        sequence = self._sequence + 1
        header = _header(state)
        packed = msgpack.packb(header)
        numbers = sequence.to_bytes(8, "big") + len(packed).to_bytes(8, "big")
        head = MAGIC + numbers + xxh3_64(numbers + packed).digest() + packed
        pieces = [head, *(bytes_of(part.buffer) for part in (state.weights, *state.slots.values()))]
        if self._target.exists():
            _overwrite(self._target, pieces, sequence)
        else:
            _create(self._target, pieces, sequence)
        self.damaged = ""
        self._written(self._target, sequence, header["digest"])
        self.state = state

    def refresh(self) -> bool:
        """Read it again if another coordinator has written it since; whether one has."""
        before = self._sequence
        if max((_sequence_in(path) for path in self._paths if path.exists()), default=0) != before:
            self.state = self._load()
        return self._sequence != before

    def _written(self, path: Path, sequence: int, found: int) -> None:
        self._sequence = sequence
        self.digest = found
        self._target = self._paths[1 - self._paths.index(path)]

    def _load(self) -> State | None:
        damaged = []
        self.damaged = ""
        there = [path for path in self._paths if path.exists()]
        if there:
            flush_folder(there[0].parent)
        elif (old := self._paths[0].with_name(OLD_NAME)).exists():
            damaged.append(f"{old} is not a whole checkpoint (of an older format)")
        for path in sorted(there, key=_sequence_in, reverse=True):
            try:
                sequence, state, found = _read(path)
            except _READ_ERRORS as error:
                damaged.append(f"{path} is not a whole checkpoint ({error})")
                continue
            self._written(path, sequence, found)
            if damaged and _sequence_at_end(self._target) > sequence:
                self.damaged = damaged[0]
            elif damaged and not self._in_use:
                log.warning(
                    "checkpoint_torn",
                    "%s: the coordinator ended while it wrote it; going on from version %d",
                    damaged[0],
                    state.version,
                )
            return state
        if damaged:
            raise ConfigError(f"{damaged[0]}: restore it, or move it away to begin a new run")
        return None


def load(folder: Path) -> State | None:
    """The state in ``folder``, or None if it holds no checkpoint; raises as Checkpoint does.

    A coordinator may be writing there: then the file that it writes is torn for the moment, and
    reading the other may take so long that it is the next one to be written.
    """
    for _ in range(READ_ATTEMPTS - 1):
        with suppress(ConfigError):
            return Checkpoint(folder, in_use=True).state
    return Checkpoint(folder, in_use=True).state


def save(folder: Path, state: State) -> None:
    """Replace the checkpoint in ``folder``, whatever it holds now."""
    Checkpoint(folder).save(state)


def _header(state: State) -> dict[str, Any]:
    codes = {client: member.code for client, member in state.roster.items() if member.code}
    return {
        "federation": state.federation,
        "run": state.run,
        "version": state.version,
        "tensors": [[t.name, list(t.shape), t.dtype, t.role] for t in state.weights.layout.tensors],
        "applied": {client: sorted(bases) for client, bases in state.applied.items()},
        "history": [record.to_dict() for record in state.history],
        # Older versions read the tuple whole; what was added to it since is beside it.
        "roster": {client: astuple(member)[:-1] for client, member in state.roster.items()},
        "digest": digest(state.weights.buffer),
        "slots": [[name, digest(slot.buffer)] for name, slot in state.slots.items()],
        "best": state.best and astuple(state.best),
        "oldest_base": state.oldest_base,
        "setup": list(state.setup),
        "fixed_state": dict(state.fixed_state),
        "audit_head": state.audit_head,
        "signers": list(state.signers),
        **({"privacy": state.privacy.to_dict()} if state.privacy is not None else {}),
        **({"enrolled": state.enrolled.to_dict()} if state.enrolled != NOBODY else {}),
        **({"codes": codes} if codes else {}),
        **({"monitored": state.monitored} if state.monitored else {}),
    }


def _create(path: Path, pieces: Sequence[Piece], sequence: int) -> None:
    with replacing(path, path.with_suffix(".tmp"), mode=PRIVATE) as temporary:
        _overwrite(temporary, pieces, sequence)
    flush_folder(path.parent)


def _overwrite(path: Path, pieces: Sequence[Piece], sequence: int) -> None:
    size = -(-(sum(map(len, pieces)) + END_BYTES) // STEP_BYTES) * STEP_BYTES
    file = os.open(path, os.O_RDWR)
    try:
        if os.fstat(file).st_size != size:
            os.ftruncate(file, size)
        at = 0
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                written = os.pwrite(file, rest, at)
                rest = rest[written:]
                at += written
        os.pwrite(file, _end(sequence), size - END_BYTES)
        flush(file)
    finally:
        os.close(file)


def _end(sequence: int) -> bytes:
    said = b"end " + sequence.to_bytes(8, "big")
    return said + xxh3_64(said).digest()


def _sequence_at_end(path: Path) -> int:
    """Of the last write that came to its end; 0 if the file does not say."""
    try:
        with path.open("rb") as file:
            file.seek(-END_BYTES, os.SEEK_END)
            found = file.read()
    except OSError:
        return 0
    sequence = int.from_bytes(found[4:12], "big")
    return sequence if found == _end(sequence) else 0


class _Prefix(NamedTuple):
    magic: bytes
    numbers: bytes
    digest: bytes

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.numbers[:8], "big")

    @property
    def length(self) -> int:
        return int.from_bytes(self.numbers[8:], "big")


def _prefix(data: bytes) -> _Prefix:
    rest = data[len(MAGIC) :]
    return _Prefix(data[: len(MAGIC)], rest[:16], rest[16:])


def _sequence_in(path: Path) -> int:
    try:
        with path.open("rb") as file:
            data = file.read(PREFIX_BYTES)
    except OSError as error:  # it may be the newer one, so the other must not be taken instead
        raise ConfigError(f"{path} cannot be read: {error}") from None
    written = re.match(rb"warren checkpoint ([0-9]{1,9})\n", data)
    if written is not None and int(written[1]) > FORMAT:  # for the same reason
        raise ConfigError(
            f"{path} was written by a newer Warren (checkpoint format {int(written[1])}, and this"
            f" one knows up to {FORMAT}): upgrade, or give another --checkpoint-dir"
        )
    return _prefix(data).sequence


_READ_ERRORS: Final = (ValueError, KeyError, TypeError, IndexError, msgpack.UnpackException)


def _read(path: Path) -> tuple[int, State, int]:
    with path.open("rb") as file:
        prefix = _prefix(file.read(PREFIX_BYTES))
        if prefix.magic not in READABLE:
            raise ValueError("unknown format")
        if prefix.length > path.stat().st_size:
            raise ValueError("its header is cut short or damaged")
        packed = file.read(prefix.length)
        if xxh3_64(prefix.numbers + packed).digest() != prefix.digest:
            raise ValueError("its header is cut short or damaged")
        header = msgpack.unpackb(packed)
        layout = Layout(tuple(_tensor(*row) for row in header["tensors"]))
        if layout.size_bytes * (1 + len(header["slots"])) > path.stat().st_size:
            raise ValueError("its weights are cut short")
        weights = _read_weights(file, layout, header["digest"])
        slots = {name: _read_weights(file, layout, wanted) for name, wanted in header["slots"]}
        # Whole in the system's cache is not yet on the disk: it may have been written by a process
        # that was killed before it could flush, and what follows from it must not be undone.
        flush(file.fileno())
    state = State(
        federation=header["federation"],
        run=header["run"],
        version=header["version"],
        weights=weights,
        applied={client: frozenset(bases) for client, bases in header["applied"].items()},
        history=tuple(map(RoundRecord.from_dict, header["history"])),
        roster=with_codes(
            {client: Member(*facts) for client, facts in header["roster"].items()},
            header.get("codes", {}),
        ),
        slots=slots,
        best=Best(*header["best"]) if header["best"] else None,
        oldest_base=header.get("oldest_base", 0),
        setup=tuple(header.get("setup", ())),
        fixed_state=header.get("fixed_state", {}),
        audit_head=header.get("audit_head", ""),
        signers=tuple(header.get("signers", ())),
        privacy=PrivacyState.from_dict(header["privacy"]) if "privacy" in header else None,
        enrolled=Enrolled.from_dict(header["enrolled"]) if "enrolled" in header else NOBODY,
        monitored=header.get("monitored", ""),
    )
    return prefix.sequence, state, header["digest"]


def _tensor(name: str, shape: list[int], dtype: str, role: Role | None = None) -> Tensor:
    """One row of the table; one that was written before there were roles goes by its name."""
    return Tensor(name, tuple(shape), dtype, role or role_by_name(name))


def _read_weights(file: BinaryIO, layout: Layout, wanted: int) -> Weights:
    weights = Weights.uninitialized(layout)
    if file.readinto(weights.buffer) != layout.size_bytes:  # type: ignore[attr-defined]
        raise ValueError("its weights are cut short")
    if digest(weights.buffer) != wanted:
        raise ValueError("its weights are cut short or damaged")
    return weights
