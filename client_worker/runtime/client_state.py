"""What a client carries from round to round, in step with what became of its updates.

That is SCAFFOLD's control variate and what is personal. The control variate must be the sum of what
the coordinator has counted, or the global one is no longer the clients' mean and drags every round
off its course. So training counts a change at once, and it is taken back when the coordinator (or
this client itself) says that the update will not count.

With a state folder it survives this process. The control variate's file is written when an update
is confirmed, so one that is still kept as unconfirmed is not in it yet, unless the version says so;
sent again, it is counted then.
"""

from typing import Final

from client_worker.client import FederatedClient
from client_worker.runtime.update_store import UpdateStore
from client_worker.training.scaffold import split
from warren_shared.observability.log import Log
from warren_shared.protocol.messages import LocalTraining, UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.compression import decode
from warren_shared.tensors.layout import Layout, Weights
from warren_shared.tensors.update import Update

log = Log(__name__)

MAX_REVOCABLE: Final = 4  # updates whose rejection may still come; each as large as the model


class ClientState:
    """Of one client at a time, in one run; on disk, if there is a ``keep``."""

    def __init__(self, federation: str, keep: UpdateStore | None) -> None:
        self._federation = federation
        self._update_store = keep
        self._of: tuple[FederatedClient, str] | None = None
        self._layout: Layout | None = None  # of the model's weights that travel in its run
        self._name = ""
        self._version = 0
        self._changes: dict[int, Weights] = {}  # of c_i, by the version they were trained from
        self._revoked: set[int] = set()  # before there was a client to take them back from
        self._warned = False

    def resume(self, client: FederatedClient, name: str, run: str, local: LocalTraining) -> None:
        """Make ``client``, called ``name``, go on from what is known of it in ``run``.

        Another run begins at nothing: its model, and its control variates, did so too.
        """
        if (
            (local.scaffold or client.personal.kinds)
            and self._update_store is None
            and not self._warned
        ):
            self._warned = True
            log.warning(
                "state_not_kept",
                "what this client learns for itself is lost when it ends: give it --state-dir",
            )
        self._layout = client.model_layout(local)
        known = self._of is not None and self._of[0] is client and self._of[1] == run
        if known and self._name == name:  # a replica may come back in another place
            return
        self._of, self._name = (client, run), name
        self._changes = {}
        client.personal.forget()
        client.control.forget()
        if self._update_store is not None:
            self._recall(client, self._update_store, run)
        for version in self._revoked:
            self.rejected(version)
        self._revoked = set()

    def trained(self, update: Update, version: int) -> None:
        """``update``, trained from ``version``, is to be sent."""
        client, layout = self._known()[0], self._known_layout()
        if len(update.delta) > len(layout.tensors):
            whole = Weights.of(update.delta, layout.with_controls)
            self._remember(version, split(whole, layout)[1])
        state = client.personal.state
        if state is not None:
            self._write("personal", state, version)

    def confirmed(self, manifest: UpdateManifest, update: Outgoing) -> None:
        """The broker has ``update``; one that this process did not train counts from now on."""
        client, layout = self._known()[0], self._known_layout()
        longer = layout.with_controls
        if longer == layout or manifest.layout != longer.digest:
            return  # it has no control variates
        if manifest.base_version not in self._changes:
            whole = decode(longer, manifest.encoding, manifest.transfer, update.buffer)
            client.count(whole)
            self._remember(manifest.base_version, split(whole, layout)[1])
        self._version = manifest.base_version
        self._write_control()

    def rejected(self, version: int | None) -> None:
        """The update that was trained from ``version`` does not count: c_i goes back."""
        if version is None:
            return
        if self._of is None:
            self._revoked.add(version)
            return
        change = self._changes.pop(version, None)
        if change is not None:
            self._of[0].control.add(change, -1.0)
            self._write_control()

    def _known(self) -> tuple[FederatedClient, str]:
        if self._of is None:
            raise RuntimeError("resume comes before everything else")
        return self._of

    def _known_layout(self) -> Layout:
        if self._layout is None:
            raise RuntimeError("resume comes before everything else")
        return self._layout

    def _remember(self, version: int, change: Weights) -> None:
        self._changes[version] = Weights(change.layout, change.buffer.copy())
        for oldest in sorted(self._changes)[:-MAX_REVOCABLE]:
            del self._changes[oldest]

    def _write_control(self) -> None:
        """Write c_i without what is not confirmed, and the last change that is in it."""
        client, _ = self._known()
        trained = client.layout.trainable
        state = Weights.empty(trained.with_controls)
        sums, last = split(state, trained)
        sums.buffer[:] = client.control.value.buffer
        if self._version in self._changes:
            last.buffer[:] = self._changes[self._version].buffer
        self._write("control", state, self._version)

    def _write(self, kind: str, state: Weights, version: int) -> None:
        if self._update_store is None:
            return
        _, run = self._known()
        manifest = UpdateManifest(
            federation=self._federation,
            run=run,
            client=self._name,
            base_version=version,
            num_examples=1,
            layout=state.layout.digest,
            **transfer_fields(state.buffer),  # type: ignore[arg-type]
        )
        self._update_store.put_state(kind, Outgoing(manifest, state.buffer), self._name)

    def _recall(self, client: FederatedClient, keep: UpdateStore, run: str) -> None:
        trained = client.layout.trainable
        longer, personal = trained.with_controls, client.personal.layout
        found = keep.state("control", self._name, longer)
        version = _version(found, run)
        if found is not None and version is not None:
            sums, last = split(Weights(longer, found.buffer), trained)
            client.control.value.buffer[:] = sums.buffer
            self._version = version
            self._remember(version, last)
        if personal is not None:
            found = keep.state("personal", self._name, personal)
            if found is not None and _version(found, run) is not None:
                client.personal.recall(Weights(personal, found.buffer))


def _version(found: Outgoing | None, run: str) -> int | None:
    """The version after which ``found`` was kept, if that was in ``run``."""
    if found is None or not isinstance(found.manifest, UpdateManifest):
        return None
    return found.manifest.base_version if found.manifest.run == run else None
