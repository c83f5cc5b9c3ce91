"""Past versions of the model, beside the checkpoint: ``versions/RUN-VERSION.safetensors``.

A milestone's name ends in ``.kept.safetensors``: it stays, whatever later settings say.

Nothing that a run needs is in them, so they are neither flushed nor waited for: a version is
written from the model's memory while the next round goes on, and that memory is not used for
anything else before the next checkpoint is on the disk. A power cut may take the newest ones with
it. A disk that is full costs a warning, and never the federation.
"""

import json
import re
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final

from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import State
from warren_shared import strict_json, weights_file
from warren_shared.errors import ConfigError
from warren_shared.files import PRIVATE, private_folder
from warren_shared.observability.log import Log
from warren_shared.tensors import frozen

log = Log(__name__)

FOLDER: Final = "versions"
_NAME: Final = re.compile(r"([0-9a-f]{8,64})-([0-9]{1,16})(\.kept)?\.safetensors")


@dataclass(frozen=True)
class Retention:
    """Which versions are kept: the ``newest``, the best always, and milestones for good.

    Every ``every``-th version is a milestone.
    """

    newest: int
    every: int | None = None

    def wants(self, version: int) -> bool:
        """Whether ``version`` is kept when it is new."""
        return self.newest > 0 or self.is_milestone(version)

    def surplus(self, versions: Iterable[int], best: int | None) -> list[int]:
        """Those of ``versions``, none of them a milestone, that are kept no longer."""
        there = sorted(versions)
        newest = set(there[-self.newest :]) if self.newest else set()
        return [version for version in there if version not in newest and version != best]

    def is_milestone(self, version: int) -> bool:
        """Whether ``version`` is kept for good."""
        return self.every is not None and version % self.every == 0


@dataclass(frozen=True)
class ArchivedVersion:
    """A past version in a file."""

    run: str
    version: int
    path: Path
    milestone: bool = False

    @cached_property
    def facts(self) -> weights_file.Facts:
        """The file's metadata; raises ConfigError if it is not a whole one."""
        return weights_file.facts_of(self.path)

    @property
    def record(self) -> RoundRecord | None:
        """The history's record of the round that made it; None if the file has none."""
        try:
            found = json.loads(self.facts.get("record", "{}"))
            return RoundRecord.from_dict(found) if isinstance(found, dict) and found else None
        except (ValueError, RecursionError):
            return None


class VersionArchive:
    """Writes and prunes the past versions in ``folder``, while we have the folder's lease."""

    def __init__(self, folder: Path, retention: Retention) -> None:
        self._folder = folder / FOLDER
        self._retention = retention
        self._thread = ThreadPoolExecutor(1, "archive")
        self._writing: Future[None] | None = None
        self._failed = False

    def take_over(self, state: State | None) -> None:
        """Remove what a crash left half-written, and what need not be kept."""
        if not self._folder.is_dir():
            return
        try:
            for path in self._folder.glob("*.tmp"):
                path.unlink()
            for kept in kept_in(self._folder.parent):
                if not _is_whole(kept):
                    log.info("version_torn", "%s is not whole: removed", kept.path)
                    kept.path.unlink()
            if state is not None:
                self._prune(state)
        except OSError as error:
            self._complain(error)

    def keep(self, state: State, digest: int) -> None:
        """Have ``state``'s model written, whose XXH3 is ``digest``, while other things go on.

        Its weights must stay as they are until ``settle`` or the next ``keep`` returns.
        """
        self.settle()
        if self._retention.wants(state.version):
            self._writing = self._thread.submit(self._update_store, state, digest)

    def settle(self) -> None:
        """Wait for what is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self) -> None:
        """Nothing will be kept any more."""
        self._thread.shutdown()

    def _update_store(self, state: State, digest: int) -> None:
        try:
            milestone = self._retention.is_milestone(state.version)
            write(self._folder.parent, state, digest, milestone=milestone)
            self._prune(state)
            self._failed = False
        except OSError as error:
            self._complain(error)

    def _prune(self, state: State) -> None:
        mine = {
            kept.version: kept
            for kept in kept_in(self._folder.parent, state.run)
            if not kept.milestone
            and kept.version <= state.version  # newer ones are of before a backup came back
        }
        best = state.best.version if state.best is not None else None
        for version in self._retention.surplus(mine, best):
            mine[version].path.unlink(missing_ok=True)

    def _complain(self, error: OSError) -> None:
        if not self._failed:
            log.warning(
                "version_not_kept",
                "past versions are not kept in %s (%s); rounds go on without",
                self._folder,
                error,
            )
        self._failed = True


def write(folder: Path, state: State, digest: int, *, milestone: bool = False) -> Path:
    """Write ``state``'s model among the past versions of ``folder``; raises OSError."""
    private_folder(folder / FOLDER)
    ending = ".kept.safetensors" if milestone else ".safetensors"
    path = folder / FOLDER / f"{state.run}-{state.version:06d}{ending}"
    made = datetime.now(UTC).isoformat(timespec="seconds")
    weights_file.write(path, state.weights, facts(state, digest, made), mode=PRIVATE)
    return path


def facts(state: State, digest: int, made: str) -> dict[str, str]:
    """What the file of a version says of it; nothing of single clients."""
    newest = replace(state.history[-1], clients=None).to_dict() if state.history else {}
    return {
        "federation": state.federation,
        "run": state.run,
        "version": str(state.version),
        "digest": f"{digest:016x}",
        "time": made,
        "record": strict_json.dumps(newest, separators=(",", ":")),
        **frozen.fact(state.fixed_state),
    }


def kept_in(folder: Path, run: str | None = None) -> list[ArchivedVersion]:
    """The past versions of ``folder``, of ``run`` only if it is given, oldest first."""
    found = []
    if (folder / FOLDER).is_dir():
        for path in (folder / FOLDER).iterdir():
            named = _NAME.fullmatch(path.name)
            if named is not None and run in (None, named[1]):
                found.append(ArchivedVersion(named[1], int(named[2]), path, bool(named[3])))
    return sorted(found, key=lambda kept: (kept.run, kept.version))


def _is_whole(kept: ArchivedVersion) -> bool:
    """As far as its length tells; its digest is looked at when it is read."""
    try:
        return bool(kept.facts)
    except ConfigError:
        return False
