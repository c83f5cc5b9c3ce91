"""The checkpoint folder: read when it is our turn, written while we have its lease."""

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Final

from coordinator_worker.aggregation.algorithm import Algorithm
from coordinator_worker.settings import CoordinatorSettings, read_initial_model
from coordinator_worker.state.training_state import Setup, State
from coordinator_worker.storage import provenance
from coordinator_worker.storage.audit_log import Audit
from coordinator_worker.storage.checkpoint import Checkpoint, load
from coordinator_worker.storage.version_archive import Retention, VersionArchive
from warren_shared import weights_file
from warren_shared.errors import ConfigError
from warren_shared.files import PRIVATE, writable
from warren_shared.folder_lock import FolderLock
from warren_shared.protocol.signing import Signer
from warren_shared.tensors import frozen
from warren_shared.tensors.layout import Weights

StoppedWithin = Callable[[float], bool]

BEST_FILE: Final = "best.npz"  # the best version's weights
ABOVE: Final = "above"  # folder in a region's: the model from above that its version is


class Store:
    """What survives the coordinator; ``state`` is what was read or written last, None before 0.

    ``stopped_within(seconds)`` waits, and is True as soon as the coordinator is asked to stop.

    Raises:
        ConfigError: the folder cannot be written, or holds something else than this federation's
            checkpoint.
    """

    def __init__(self, settings: CoordinatorSettings, stopped_within: StoppedWithin) -> None:
        self.state: State | None = None
        self.folder = writable(settings.checkpoint_dir, "--checkpoint-dir")
        self._settings = settings
        self._stopped_within = stopped_within
        self._lease = FolderLock(self.folder)
        self.audit = Audit(self.folder, settings.audit_rotate_bytes)
        self._syncer = ThreadPoolExecutor(1, "sync")
        retention = Retention(settings.keep_versions, settings.keep_every)
        self._archive = VersionArchive(self.folder, retention)
        self._setup: tuple[Setup, ...] = ()
        self._setup_now = provenance.setup_of(settings)
        self._checkpoint: Checkpoint | None = None
        signer = Signer.of(settings.secret(settings.signing_keys))
        self._signers = signer.key_ids if signer is not None else ()
        if self._lease.take():  # else most of its faults show when it is our turn
            try:
                self._read()
            finally:
                self._lease.give_back()
        else:
            self._check_whose(self._as_somebody_writes_it())

    def take_over(self) -> bool:
        """Take the folder's lease; whether ``state`` is another now than when we last looked."""
        self._lease.wait(self._stopped_within)
        changed = self._read()
        self._archive.take_over(self.state)
        return changed

    @property
    def damaged(self) -> str:
        """What is wrong with the newer file of the checkpoint, if it was whole once."""
        return self._checkpoint.damaged if self._checkpoint is not None else ""

    def give_back(self) -> None:
        """Another coordinator may write now.

        A region's keeps the folder until it ends: it is still a client of the federation above,
        and two that take turns there could publish two models as one version here.
        """
        self._archive.settle()
        if self._settings.parent is None:
            self.audit.give_back()
            self._lease.give_back()

    def version_zero(self, weights: Weights, fixed_state: Mapping[str, str] | None = None) -> State:
        """A new training run that begins with ``weights``."""
        run = secrets.token_hex(4)
        federation = self._settings.federation
        return State(federation, run, 0, weights, applied={}, fixed_state=fixed_state or {})

    def save(self, state: State) -> None:
        """Write audit log and checkpoint; raises OSError if the disk does not take them."""
        if self._checkpoint is None:
            raise RuntimeError("only who has taken over may write")
        self.audit.write()
        synced = self._syncer.submit(self.audit.sync)  # each takes a millisecond or more
        self._setup = provenance.since(self._setup, state.version, self._setup_now)
        signers = self._signers or state.signers
        self._checkpoint.save(
            replace(state, setup=self._setup, audit_head=self.audit.head, signers=signers)
        )
        synced.result()
        self.state = state
        # Waits for the version before this one to be written: its memory is the next round's.
        self._archive.keep(state, self._checkpoint.digest)

    def settle(self) -> None:
        """Return when what was saved is written out of its memory, past versions too."""
        self._archive.settle()

    def close(self) -> None:
        """Nothing will be written any more."""
        self._syncer.shutdown()
        self._archive.close()

    def save_best(self, weights: Weights, facts: weights_file.Facts | None = None) -> None:
        """Replace ``best.npz``, whole or not at all; raises OSError if there is no room."""
        weights_file.write(self.folder / BEST_FILE, weights, facts, mode=PRIVATE)

    def _read(self) -> bool:
        settings = self._settings
        if self._checkpoint is None:
            self._checkpoint = Checkpoint(self.folder)
        elif not self._checkpoint.refresh():
            return False
        self.state = self._checkpoint.state
        self._setup = self.state.setup if self.state is not None else ()
        if self.state is None and settings.initial_model is not None:
            found = read_initial_model(settings.initial_model, settings.exchange)
            known = frozen.fixed_state(found.facts) if settings.exchange == "trainable" else {}
            self.state = self.version_zero(found.weights, known)
            self._complete(self.state)
        elif self.state is not None and self._setup and "imported" in self._setup[-1]:
            self._complete(self.state)
        self._check_whose(self.state)
        if self.state is not None:
            self._check_kind(self.state.version)
        return True

    def _as_somebody_writes_it(self) -> State | None:
        with suppress(ConfigError):  # no file of it was whole just then
            return load(self.folder)
        return None

    def _check_whose(self, state: State | None) -> None:
        """Refuse what another federation left, also one of the same name.

        Keys are replaced one at a time, and the one before stays good: of two coordinators of one
        home at least one key is the same.
        """
        if state is None:
            return
        if state.federation != self._settings.federation:
            raise ConfigError(
                f"{self.folder} holds a checkpoint of federation {state.federation!r}, this"
                f" is {self._settings.federation!r}: give another --checkpoint-dir"
            )
        if state.signers and self._signers and not set(state.signers) & set(self._signers):
            raise ConfigError(
                f"{self.folder} holds a checkpoint of another federation {state.federation!r}, that"
                " signs with other keys: give another --checkpoint-dir (or if it is the same one"
                " with a new home, `coordinator-worker rollback current --after"
                f" {state.version}` first)"
            )

    def _check_kind(self, version: int) -> None:
        """A region's clients hold other models than its checkpoint: only a region may go on."""
        was_region, is_region = (self.folder / ABOVE).is_dir(), self._settings.parent is not None
        if was_region and not is_region:
            hint = "give --parent, or another --checkpoint-dir"
            raise ConfigError(f"{self.folder} has a run with a federation above: {hint}")
        if is_region and not was_region and version:
            hint = "leave out --parent, or give another --checkpoint-dir"
            raise ConfigError(f"{self.folder} has a run without a federation above: {hint}")

    def _complete(self, brought: State) -> None:
        """The weights that a person ``brought`` are not published yet: add what the run needs."""
        weights = Algorithm.from_settings(self._settings).initial(brought.weights)
        self.state = replace(brought, weights=weights)
