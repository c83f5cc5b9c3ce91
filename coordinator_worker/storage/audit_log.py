"""The audit log: every update accepted, rejected and aggregated, a JSON object a line, for ever.

``audit.jsonl`` in the checkpoint folder is only ever appended to. Each line has the SHA-256 of the
one before it (``previous``), so that one that was changed or taken out shows. Never data, never
weights or metrics, never secrets.

The file may be renamed at any time, by us (``rotate_bytes``), `coordinator-worker audit --rotate`
or logrotate: the next line begins a new one, and has the digest of the last line of the old.

What made a version is written before the checkpoint that holds it, so a crash can leave a line too
many but none too few. Each coordinator that takes over says where it goes on (``resumed``): what
was aggregated above that version never became a model.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from coordinator_worker.state.round_record import Entry
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import audit_files
from coordinator_worker.storage.audit_files import CONTINUED, NAME
from warren_shared import strict_json
from warren_shared.errors import ConfigError, Rejected
from warren_shared.files import PRIVATE, flush, flush_folder
from warren_shared.naming import user_of
from warren_shared.observability.log import Log
from warren_shared.protocol.messages import UpdateManifest

log = Log(__name__)

NO_LINE: Final = "0" * 64  # the line before the first
MADE: Final = ("aggregated", "rolled_back")  # what a line says that tells how a version was made
# Of what one sender has rejected in one round so many are listed and the rest counted: who floods
# the coordinator must not fill its disk.
MAX_LISTED: Final = 100
_TAIL_BYTES: Final = 16 << 20  # longer than any line


class Audit:
    """Appends to the log of ``folder`` while we have the folder's lease.

    What the disk does not take stays here, and ``write`` raises OSError until it does. A file of
    ``rotate_bytes`` is rotated.
    """

    def __init__(self, folder: Path, rotate_bytes: int | None = None) -> None:
        self._path = folder / NAME
        self._rotate_bytes = rotate_bytes
        self._file = -1
        self._number = 0  # which file of the log ours is
        self._size = 0  # what ours had when we wrote it last
        self._is_new = False  # its name may not be on the disk yet
        self._is_stuck = False  # the last attempt to go on in a new file failed
        self._run = ""
        self._previous = NO_LINE
        self._pending = b""
        self._rejected: Counter[str] = Counter()  # by user, since the round began
        self._unlisted: Counter[str] = Counter()

    def take_over(self, state: State | None) -> None:
        """Go on behind what is there; say which version the folder is at.

        Raises:
            OSError: the disk does not take it.
            ConfigError: an older file that is needed for it is damaged.
        """
        self.give_back()
        begun = self._path.exists() and self._path.stat().st_size > 0
        older = 0 if begun else audit_files.newest_number(self._path.parent)
        self._file = self._open()
        lines = _tail(self._file) if begun else audit_files.tail(self._path.parent, _TAIL_BYTES)
        self._size = os.fstat(self._file).st_size
        self._pending = b"\n" if begun and not self._ends_whole() else b""  # torn by a crash
        self._previous = digest_of(lines[-1]) if lines else NO_LINE
        self._number = audit_files.number_of(self._path) if begun else older + 1
        if older:
            self._continue()
        if state is not None:
            is_whole = _has_line(lines, state.audit_head) and _has_aggregated(lines, state)
            if begun and self._number > 1 and not is_whole:
                lines = [*audit_files.tail(self._path.parent, _TAIL_BYTES), *lines]
            lost = state.audit_head if not _has_line(lines, state.audit_head) else ""
            self.resumed(state, known=_has_aggregated(lines, state), lost=lost)
        self.write()

    @property
    def head(self) -> str:
        """Digest of the last line, empty before the first; the checkpoint keeps it, so that a cut
        end shows.
        """
        return "" if self._previous == NO_LINE else self._previous

    def give_back(self) -> None:
        """Another coordinator may write now."""
        self._write_some()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._pending = b""
        self._rejected.clear()
        self._unlisted.clear()

    def resumed(self, state: State, *, known: bool = True, lost: str = "") -> None:
        """``state`` is where we go on; if its line is not ``known`` it is made from the checkpoint.

        A power cut may take the newest lines with it. ``lost`` is the digest of the line that the
        checkpoint takes for the last, if it is not there: this line says so for ever.
        """
        self._run = state.run
        self._say("resumed", version=state.version, **({"lost": lost} if lost else {}))
        if not known and state.version:
            clients = (state.history[-1].clients if state.history else None) or {}
            found = [
                {"client": client, "num_examples": said.examples}
                for client, said in clients.items()
            ]
            self._say("aggregated", version=state.version, recovered=True, contributions=found)

    def accepted(self, manifest: UpdateManifest, version: int) -> None:
        """An update is in the sum that will make ``version``."""
        self._say(
            "accepted",
            version=version,
            client=manifest.client,
            user=user_of(manifest.client),  # whom the broker vouched for
            base_version=manifest.base_version,
            staleness=version - 1 - manifest.base_version,
            num_examples=manifest.num_examples,
            transfer=manifest.transfer,
            digest=f"{manifest.digest:016x}",
            size_bytes=manifest.size_bytes,
            **({"code": manifest.code} if manifest.code else {}),
        )

    def rejected(self, user: str | None, client: str, rejected: Rejected) -> None:
        """Something that came from ``user`` must not count."""
        sender = user or ""
        self._rejected[sender] += 1
        if self._rejected[sender] > MAX_LISTED:
            self._unlisted[sender] += 1
        else:
            reason, detail = rejected.reason[:64], rejected.detail[:300]
            self._say("rejected", client=client, user=user, reason=reason, detail=detail)

    def flooded(self, user: str | None) -> None:
        """Of ``user`` so much must not count that this is only counted, or it would fill disks."""
        self._unlisted[user or ""] += 1

    def aggregated(self, version: int, entries: Sequence[Entry], refused: str | None) -> None:
        """A round has made ``version`` of ``entries``; ``refused``: why the weights stayed."""
        unlisted = dict(self._unlisted)
        self._unlisted.clear()
        self._rejected.clear()
        self._say(
            "aggregated",
            version=version,
            contributions=[entry._asdict() for entry in entries],
            **({"refused": refused} if refused else {}),
            **({"rejected_unlisted": unlisted} if unlisted else {}),
        )

    def rolled_back(self, state: State) -> None:
        """A person has made version ``state.version`` of an older model."""
        origin = state.rolled_back
        self._say("rolled_back", version=state.version, to=origin.to_dict() if origin else None)

    def imported(self, state: State) -> None:
        """A run has begun with weights that a person brought."""
        self._run = state.run
        self._say("imported", version=state.version, **state.setup[-1]["imported"])

    def published(self, version: int, digest: int, content: str | None) -> None:
        """Every mailbox has ``version``, whose weights have these digests (XXH3, BLAKE3)."""
        self._say("published", version=version, digest=f"{digest:016x}", content=content)

    def _write_some(self) -> None:
        """What is not taken now is taken before the next checkpoint."""
        with suppress(OSError):
            self.write()

    def write(self) -> None:
        """Hand everything to the system: it survives our end; raises OSError if it cannot."""
        while self._pending and self._file >= 0:
            written = os.write(self._file, self._pending)
            self._pending = self._pending[written:]
            self._size += written

    def sync(self) -> None:
        """Make what was written survive a power cut; safe beside the other methods."""
        if self._file >= 0:
            flush(self._file)
        if self._is_new:
            flush_folder(self._path.parent)
            self._is_new = False

    def _open(self) -> int:
        self._is_new = not self._path.exists()
        file = os.open(self._path, os.O_APPEND | os.O_CREAT | os.O_RDWR, PRIVATE)
        with suppress(PermissionError):  # of another user, in a folder that is private
            os.fchmod(file, PRIVATE)
        return file

    def _follow(self) -> None:
        """Go on in a new file if ours was renamed, emptied, or is as long as it may be.

        What is pending belongs to the line before, and that into the old file.
        """
        if self._file < 0 or self._pending:
            return
        try:
            is_ours = self._is_in_place()
            if is_ours and self._rotate_bytes and self._size >= self._rotate_bytes:
                audit_files.rotate(self._path.parent)
                is_ours = False
            size = os.fstat(self._file).st_size
            if is_ours and size >= self._size:
                return
            if not is_ours:
                flush(self._file)
                file = self._open()
                os.close(self._file)
                self._file = file
        except (OSError, ConfigError) as error:
            if not self._is_stuck:
                log.warning("audit_not_rotated", "the audit log goes on in its old file: %s", error)
            self._is_stuck = True
            return
        self._is_stuck = False
        self._size = os.fstat(self._file).st_size
        if not self._size:
            self._number += 1
            self._continue()
        elif not self._ends_whole():  # somebody cut it
            self._pending = b"\n"

    def _is_in_place(self) -> bool:
        """Whether our file still has its name."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _ends_whole(self) -> bool:
        return os.pread(self._file, 1, max(0, os.fstat(self._file).st_size - 1)) == b"\n"

    def _continue(self) -> None:
        """The first line of a file that is not the log's first."""
        self._append(CONTINUED, file=self._number)

    def _say(self, event: str, **said: Any) -> None:
        self._follow()
        self._append(event, **said)

    def _append(self, event: str, **said: Any) -> None:
        now = time.time()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        line = {
            "time": f"{moment}.{int(now * 1000) % 1000:03d}Z",
            "event": event,
            "run": self._run,
            **said,
            "previous": self._previous,
        }
        text = strict_json.dumps(line, separators=(",", ":")).encode()  # escapes what is not ASCII
        self._previous = digest_of(text)
        self._pending += text + b"\n"
        self._write_some()


def digest_of(line: bytes) -> str:
    """What the next line has as ``previous``."""
    return hashlib.sha256(line).hexdigest()


def _tail(file: int) -> list[bytes]:
    size = os.fstat(file).st_size
    return os.pread(file, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).splitlines()


def _has_aggregated(lines: Sequence[bytes], state: State) -> bool:
    """Whether the newest line about a version of the run is how it was made."""
    for line in reversed(lines):
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(said, dict) or said.get("run") != state.run:
            continue
        version = said.get("version")
        if said.get("event") in MADE and isinstance(version, int):
            if version == state.version:
                return True
            if version < state.version:
                return False
    return False


def _has_line(lines: Sequence[bytes], digest: str) -> bool:
    """Whether one of ``lines`` has ``digest``; a state from before there were any has none."""
    return digest in ("", NO_LINE) or any(digest_of(line) == digest for line in reversed(lines))
