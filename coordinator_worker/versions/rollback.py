"""Going on from an older model, and beginning with one that a person brings.

One version is only ever one model, and versions only grow: clients and the audit log rely on both.
So a rollback makes a *new* version with the old weights. Updates that were trained from what was
rolled back do not count any more, however late updates may be.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Final

from coordinator_worker.aggregation.coordinator import NOISE
from coordinator_worker.state import roster
from coordinator_worker.state.round_record import Rollback, RoundRecord
from coordinator_worker.state.training_state import Best, State
from coordinator_worker.storage import version_archive
from coordinator_worker.storage.audit_log import Audit
from coordinator_worker.storage.checkpoint import Checkpoint
from coordinator_worker.storage.provenance import software
from coordinator_worker.storage.store import ABOVE
from coordinator_worker.versions.registry import ModelRegistry
from warren_shared import weights_file
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.files import writable
from warren_shared.folder_lock import FolderLock
from warren_shared.observability.log import Log
from warren_shared.tensors import frozen
from warren_shared.tensors.layout import Weights

log = Log(__name__)

EVER: Final = 1 << 60  # the ledger forgets nothing: that is for the next round to decide


def rolled_back(state: State, weights: Weights, version: int | None, source: str) -> State:
    """The state one version on, with ``weights``, which were those of ``version`` if of any.

    The server optimizer and the aggregator are reset, as after a round that diverged.
    """
    made = state.version + 1
    record = RoundRecord(
        version=made,
        clients={},
        time=time.time(),
        participation=roster.summary(
            roster.participation(state.roster, state.version, state.unseen)
        ),
        rolled_back=Rollback(version, source, weights_file.digest_text(weights)),
    )
    best = state.best
    if best is not None and best.version == version:
        best = Best(made, best.value)  # the same weights; patience begins again
    after = state.after(weights, (), record, EVER)
    # No federation's: it is by this that a folder moves to another home of the federation.
    # What has been released with noise stays released: the noise goes on from there.
    slots = {name: slot for name, slot in state.slots.items() if name == NOISE}
    return replace(after, slots=slots, best=best, oldest_base=made, signers=())


def rollback(folder: Path, wanted: str, after: int | None = None) -> State:
    """Make the next version of the model that ``wanted`` names; return the new state.

    ``after`` is a version that is out, though this folder does not have it: the new one's number
    is the next.

    Raises ConfigError if there is no such model, or a coordinator has the folder.
    """
    if (folder / ABOVE).is_dir():
        raise ConfigError(f"{folder} is a region's, whose models come from above: roll back there")
    with _alone(folder):
        past = ModelRegistry(folder)
        model = past.find(wanted)
        if model.version == past.state.version and after is None:
            raise ConfigError(f"version {model.version} is the newest already")
        weights_file.check_finite(model.weights, model.name)
        source = model.name if model.version is not None else f"the file {model.name}"
        if past.state.privacy is not None and (after or 0) > past.state.version:
            raise ConfigError(
                f"version {after} is out, and this folder does not have the noise that was released"
                " with it: a private run goes on from its newest checkpoint alone; begin another"
            )
        newest = replace(past.state, version=max(past.state.version, after or 0))
        state = rolled_back(newest, model.weights, model.version, source)
        audit = Audit(folder)
        audit.take_over(past.state)
        audit.rolled_back(state)
        _save(folder, state, audit)
    return state


def import_model(folder: Path, federation: str, path: Path, called: str = "") -> State:
    """Begin a run of ``federation`` in ``folder`` with the weights in ``path``.

    ``called``: what history and audit call the file. Raises ConfigError if there is a checkpoint
    already, the file is no model, or a coordinator has the folder.
    """
    found = weights_file.read(path)
    weights = weights_file.without_controls(found.weights)
    weights_file.check_finite(weights, str(path))
    with _alone(writable(folder, "--checkpoint-dir")):
        if (state := Checkpoint(folder).state) is not None:
            raise ConfigError(
                f"{folder} holds version {state.version} of {state.federation!r} already: give"
                f" another --checkpoint-dir, or make it the next version: `coordinator-worker"
                f" rollback {path}`"
            )
        origin = {"source": called or path.name, "digest": weights_file.digest_text(weights)}
        fixed = frozen.fixed_state(found.facts)
        setup = ({"version": 0, "imported": origin, "software": software()},)
        run = token_hex(4)
        state = State(federation, run, 0, weights, applied={}, setup=setup, fixed_state=fixed)
        audit = Audit(folder)
        audit.take_over(None)
        audit.imported(state)
        _save(folder, state, audit)
    return state


def _save(folder: Path, state: State, audit: Audit) -> None:
    """In the coordinator's order: the log has a line too many after a crash, but none too few."""
    audit.write()
    audit.sync()
    checkpoint = Checkpoint(folder)
    checkpoint.save(replace(state, audit_head=audit.head))
    audit.give_back()
    try:
        version_archive.write(folder, state, checkpoint.digest)
    except OSError as error:  # the copy is a convenience: what was done is done
        log.warning(
            "not_kept",
            "version %d is in the checkpoint, but no copy of it in %s (%s)",
            state.version,
            folder / version_archive.FOLDER,
            error,
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process writes ``folder`` meanwhile; a disk that is full is one line."""
    if not folder.is_dir():
        raise ConfigError(f"--checkpoint-dir {folder} holds no checkpoint yet")
    lease = FolderLock(folder)
    if not lease.take():
        raise ConfigError(f"a coordinator that runs has {folder}: stop it first, then try again")
    try:
        yield
    except OSError as error:
        raise WarrenError(f"{folder} cannot be written: {error}") from None
    finally:
        lease.give_back()
