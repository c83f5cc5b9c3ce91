"""The client's end of the mailbox: models arrive here chunk by chunk, and the newest wins."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np

from warren_shared.amqp.delivery import Delivery
from warren_shared.errors import Rejected
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import decode, model_layout
from warren_shared.protocol.messages import OLDEST, Chunk, ModelManifest, Notice, Signed
from warren_shared.protocol.signing import Verifier, content_digest
from warren_shared.protocol.transfer import Incoming, digest
from warren_shared.tensors.compression import RAW
from warren_shared.tensors.layout import Layout, Weights
from warren_shared.tensors.model_change import ModelChange, move

log = Log(__name__)


@dataclass(eq=False)
class Shelved:
    """Weights that arrive, or have arrived, in one mailbox or in several."""

    weights: Weights
    is_whole: bool = False
    is_shared: bool = False

    def store(self, start: int, data: memoryview) -> None:
        """Put a piece in its place; of a model that is whole it is there already."""
        if not self.is_whole:
            self.weights.buffer[start : start + len(data)] = data


class ModelCache:
    """Models by transfer: one that comes to a thousand mailboxes of one process is held once."""

    def __init__(self) -> None:
        self._models: WeakValueDictionary[str, Shelved] = WeakValueDictionary()

    def place(self, transfer: str, layout: Layout) -> Shelved:
        """Where a model belongs; forgotten when no participant holds it any more."""
        found = self._models.get(transfer)
        if found is None or found.weights.layout != layout:
            found = Shelved(Weights(layout, np.empty(layout.size_bytes, np.uint8)))
            self._models[transfer] = found
        else:
            found.is_shared = True
        return found


@dataclass(frozen=True)
class GlobalModel:
    """A whole global model, as announced and with its weights.

    ``waited``: it was in the mailbox before this client connected, so its run may have ended.
    ``change``: how it came, if that was not whole.
    """

    manifest: ModelManifest
    shelved: Shelved
    waited: bool = False
    change: ModelChange | None = None

    @property
    def weights(self) -> Weights:
        """Its weights, which others may hold too: not to be written to."""
        return self.shelved.weights


@dataclass(frozen=True)
class Announcement:
    """A model of another layout, of which nothing but the manifest is kept."""

    manifest: ModelManifest
    waited: bool = False


@dataclass(frozen=True)
class _Arriving:
    """A transfer on its way: a whole model, or the ``change`` that leads to one."""

    incoming: Incoming
    shelved: Shelved
    change: ModelChange | None = None


class Mailbox:
    """Assembles models on the connection's thread, straight into the buffer they will live in.

    A client holds at most two: the one it trains on and the newest complete one; and for a moment a
    third where models come as changes to the one before. Such a change is of no use without its
    base: then ``lacks_base`` is called, which is to ask for the whole model. Of a model of
    another layout than ``expect`` has told only the manifest is kept, since the task may have to be
    made with its config. What comes before that is assembled as it is announced: a replica makes
    its task when it has its place, and its coordinator may be gone by then.
    """

    def __init__(
        self,
        federation: str,
        wake: Callable[[], None],
        torn: Callable[[], None],
        shelf: ModelCache | None = None,
        verifier: Verifier | None = None,
        lacks_base: Callable[[], None] = lambda: None,
    ) -> None:
        self._federation = federation
        self._model_cache = shelf or ModelCache()
        self._verifier = verifier
        self._wake, self._torn, self._lacks_base = wake, torn, lacks_base
        self._layout: Layout | None = None
        self._lock = threading.Lock()
        self._newest: GlobalModel | Announcement | None = None
        self._notices: list[Notice] = []
        self._arriving: _Arriving | None = None
        self._base: GlobalModel | None = None  # the newest whole one, if changes to it may come
        self._waited = False  # whether the model that arrives was there before us
        self._unreadable = ""  # what was said last of a protocol that is not ours
        self.bytes_received = 0
        self.coordinator_reads = OLDEST  # the newest protocol that the sender of the model reads
        self.live_run = ""  # whose model came last, while we were here, and was not its end

    def expect(self, layout: Layout) -> None:
        """Take models of this layout from now on."""
        self._layout = layout

    @property
    def expects_models(self) -> bool:
        """Whether the layout is known."""
        return self._layout is not None

    def take(self) -> GlobalModel | Announcement | None:
        """The newest complete model since the last call, or None.

        Of one of another layout there is an Announcement, and before ``expect`` nothing.
        What was taken is no longer there.
        """
        expected = self._layout
        if expected is None:
            return None
        with self._lock:
            newest, self._newest = self._newest, None
        if isinstance(newest, GlobalModel) and newest.weights.layout != expected:
            if newest.weights.layout.difference(expected, roles=True):
                return Announcement(newest.manifest, newest.waited)
            newest.shelved.weights = Weights(expected, newest.weights.buffer)  # as the task has it
        return newest

    @property
    def holds_model(self) -> bool:
        """Whether a model waits to be taken."""
        return self._newest is not None

    def newest_version(self, run: str) -> int:
        """Version of ``run`` that waits to be taken; -1 if none does."""
        with self._lock:
            newest = self._newest
        if isinstance(newest, GlobalModel) and newest.manifest.run == run:
            return newest.manifest.version
        return -1

    def notices(self) -> list[Notice]:
        """Notices since the last call."""
        with self._lock:
            found, self._notices = self._notices, []
        return found

    def forget(self, notice: str) -> None:
        """Notices of that kind, as far as they have come, mean nothing any more."""
        with self._lock:
            self._notices = [one for one in self._notices if one.notice != notice]

    def deliver(self, delivery: Delivery) -> None:
        """Take one message; for the connection's thread."""
        self.bytes_received += len(delivery.body)
        try:
            message, data = decode(delivery.body, "this client")
            if isinstance(message, Signed) and not self._is_genuine(message):
                return
            if isinstance(message, Notice):
                with self._lock:
                    self._notices.append(message)
                self._wake()
            elif isinstance(message, ModelManifest):
                self._waited = delivery.waited
                self.coordinator_reads = delivery.reads
                if not message.final and not delivery.waited:
                    self.live_run = message.run
                self._begin(message)
                self._add(0, data)
            elif isinstance(message, Chunk) and self._is_due(message):
                self._add(message.index, data)
        except Rejected as rejected:
            self._arriving = None
            if rejected.reason == "protocol":
                self._say_once(rejected.detail)
                return  # asking for it again would bring the same
            log.warning("model_torn", "a model did not arrive whole: %s", rejected)
            self._torn()

    def _say_once(self, unreadable: str) -> None:
        if unreadable != self._unreadable:
            self._unreadable = unreadable
            log.error("protocol", "waiting: what comes cannot be read: %s", unreadable)

    def _is_genuine(self, message: Signed) -> bool:
        if self._verifier is None:
            return True
        try:
            self._verifier.check(message)
        except Rejected as rejected:
            # Asking for it again would bring the same; the next may be the coordinator's own.
            what = "notice"
            if isinstance(message, ModelManifest):
                what, self._arriving = "model", None
            log.error("not_genuine", "a %s is not believed: %s", what, rejected.detail)
            return False
        return True

    def _begin(self, manifest: ModelManifest) -> None:
        self._arriving = None
        if manifest.federation != self._federation:
            raise Rejected("federation", f"it is of {manifest.federation!r}")
        layout = model_layout(manifest)
        expected = self._layout or layout
        if layout.difference(expected, roles=True):
            self._put(Announcement(manifest, self._waited))
            return
        change = None
        if manifest.base is not None:
            if not self._has_base(manifest):
                return
            code = np.empty(manifest.size_bytes, np.uint8)
            change = ModelChange(manifest.downlink, manifest.transfer, code)
        shelved = self._model_cache.place(manifest.transfer, expected)
        content = manifest.content if self._verifier is not None else None
        if self._verifier is not None and content is None:
            raise Rejected("signature", "what is signed does not name the weights")
        if change is None:
            incoming = Incoming(manifest, shelved.store, content)
        else:  # what is vouched for is the model that it leads to
            incoming = Incoming(manifest, change.store)
        self._arriving = _Arriving(incoming, shelved, change)

    def _has_base(self, manifest: ModelManifest) -> bool:
        """Whether the change of ``manifest`` leads on from the newest model that is here."""
        base = self._base.manifest if self._base is not None else None
        if base is None or base.run != manifest.run or base.version < (manifest.base or 0):
            self._lacks_base()
            return False
        return base.version == manifest.base  # else it leads to one that is here already

    def _is_due(self, chunk: Chunk) -> bool:
        arriving = self._arriving
        return arriving is not None and arriving.incoming.manifest.transfer == chunk.transfer

    def _add(self, index: int, data: memoryview) -> None:
        arriving = self._arriving
        if arriving is None or not arriving.incoming.add(index, data):
            return
        self._arriving = None
        manifest, shelved = arriving.incoming.manifest, arriving.shelved
        if not isinstance(manifest, ModelManifest):
            return
        if arriving.change is None:
            self._approve(shelved, manifest)
        elif not shelved.is_whole:
            self._apply(arriving.change, shelved, manifest)
        self._put(GlobalModel(manifest, shelved, self._waited, arriving.change))

    def _apply(self, change: ModelChange, shelved: Shelved, manifest: ModelManifest) -> None:
        """Make of the base and the change to it the model that was announced."""
        if self._base is None:
            raise RuntimeError("a change was taken without its base")
        move(self._base.weights, change, shelved.weights)
        buffer = shelved.weights.buffer
        is_wrong = digest(buffer) != manifest.weights_digest
        if is_wrong or (self._verifier is not None and content_digest(buffer) != manifest.content):
            self._base = None
            raise Rejected("digest", "the change leads to another model than was announced")
        shelved.is_whole = True

    def _approve(self, shelved: Shelved, manifest: ModelManifest) -> None:
        """What came to this mailbox is genuine; only a digest tells what others laid over it."""
        mixed = self._verifier is not None and shelved.is_shared and not shelved.is_whole
        if mixed and content_digest(shelved.weights.buffer) != manifest.content:
            raise Rejected("digest", "another mailbox of this process was given other bytes")
        shelved.is_whole = True

    def _put(self, model: GlobalModel | Announcement) -> None:
        keeps = isinstance(model, GlobalModel) and model.manifest.downlink != RAW
        self._base = model if isinstance(model, GlobalModel) and keeps else None
        with self._lock:
            self._newest = model
        self._wake()
