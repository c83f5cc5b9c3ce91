"""The client in a region: what it trains with is a round of the clients below.

The other half is `coordinator_worker/runtime/upstream.py`, which says what this is about.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from pydantic import ValidationError

from client_worker.client import FederatedClient
from client_worker.runtime.mailbox import GlobalModel
from client_worker.runtime.participant import Participant, WorkerContext
from client_worker.runtime.worker import ClientWorker
from client_worker.settings import ClientSettings
from client_worker.tasks.task import Task, TaskSource
from client_worker.training.exchange import ALL, TRAINABLE
from warren_shared.amqp.session import WAIT_S
from warren_shared.config.settings import WorkerSettings
from warren_shared.config.settings_model import in_bundle
from warren_shared.errors import ConfigError, Stopped
from warren_shared.naming import is_user_name
from warren_shared.observability.event_bus import Timings
from warren_shared.observability.log import Log
from warren_shared.protocol.messages import LocalTraining, ModelManifest, Setting
from warren_shared.service.watchdog import Supervisor
from warren_shared.tensors.frozen import FROZEN_WEIGHTS
from warren_shared.tensors.layout import Array, Layout, Weights
from warren_shared.tensors.update import Update

log = Log(__name__)

AS_IT_IS: Final = LocalTraining()
FROM_BUNDLE: Final = (
    *("broker_url", "client", "fleet", "verify_keys", "encrypt_key"),
    *("ca", "tls_certificate", "tls_key", "proxy", "token_file", "spare_mailboxes"),
)


@dataclass(frozen=True)
class Result:
    """What the clients below made of the model ``base``: the region's update to it."""

    base: ModelManifest
    update: Update


class Handover:
    """Where the coordinator and the client above meet: models go down, results come up, in turns.

    Each waits for the other on its own thread, until ``close``.
    """

    def __init__(self) -> None:
        self.closed = False
        self._down: SimpleQueue[GlobalModel | None] = SimpleQueue()
        self._up: SimpleQueue[Result | None] = SimpleQueue()

    def close(self) -> None:
        """End all waiting; for any thread."""
        self.closed = True
        self._down.put(None)
        self._up.put(None)

    def exchange(self, result: Result | None, waiting: Callable[[], None]) -> GlobalModel:
        """Give up a ``result``, if there is one; return the next model. For the coordinator.

        ``waiting`` is called now and then. Raises Stopped if it is closed meanwhile.
        """
        if result is not None:
            self._up.put(result)
        model = None
        while not self.closed and model is None:
            with suppress(Empty):
                model = self._down.get(timeout=WAIT_S)
            waiting()
        if model is None:
            raise Stopped("stopped while the federation above had no next model")
        return model

    def begin(self, model: GlobalModel) -> None:
        """Have the clients below train from ``model``. For the client above."""
        self._down.put(model)

    def result(self) -> Result | None:
        """What they made of it; None if it is closed meanwhile. For the client above."""
        return None if self.closed else self._up.get()


class _Above(Participant):
    """The region as one client of the federation above: it trains by handing the model down."""

    def __init__(
        self, region: "Region", settings: ClientSettings, source: TaskSource, context: WorkerContext
    ) -> None:
        super().__init__(settings, source, context)
        self._region = region
        self._handover = region.handover
        self._begun = region.begun  # what the clients below train from; its result is to come

    def _work(self, model: GlobalModel) -> None:
        newest = model.manifest
        if self._begun is not None and not _are_same(self._begun, newest):
            self._be_ready_for(newest)
            if not self._conclude(newest):  # what an earlier process began comes first
                return
        super()._work(model)

    def _train(self, model: GlobalModel) -> None:
        self._be_ready_for(model.manifest)
        if self._begun is None:
            self._begun = model.manifest
            self._region.weights = model.weights
            self._handover.begin(model)
        self._conclude(model.manifest)

    def _unlike(self, manifest: ModelManifest) -> str:
        """What keeps the clients below from training from a model above, in words."""
        return self._region.other_exchange(manifest.local) or super()._unlike(manifest)

    def _conclude(self, newest: ModelManifest) -> bool:
        """Wait for what the clients below make of what was begun, and hand it in."""
        phases = Timings()
        with phases.measure("train"):
            result = self._handover.result()
        if result is None:
            return False
        base, self._begun = result.base, None
        self._trained = (base.run, base.version)
        if base.run == newest.run:
            self._submit(result.update, base, newest.version, phases)
        else:
            log.warning("update_dropped", "the federation above has begun another run")
        return True

    def _finish(self, model: GlobalModel) -> None:
        super()._finish(model)
        self._handover.begin(model)


def _are_same(one: ModelManifest, other: ModelManifest) -> bool:
    return (one.run, one.version) == (other.run, other.version)


class _Round:
    """Stands for the clients below where a task has its model."""

    def __init__(self, region: "Region") -> None:
        self.region = region

    def get_weights(self) -> list[Array]:
        """What a federation above that has no model can begin with."""
        return self.region.weights

    def weight_names(self) -> list[str]:
        """Return what the clients below call their tensors."""
        return [tensor.name for tensor in self.region.weights.layout.tensors]

    def weight_roles(self) -> list[str]:
        """Return the roles that the clients below gave them."""
        return [tensor.role for tensor in self.region.weights.layout.tensors]

    def fixed_state(self) -> dict[str, str]:
        """Return what the clients below have agreed on beside their weights."""
        found = self.region.fixed_state.items()
        return {name: digest for name, digest in found if name != FROZEN_WEIGHTS}

    def set_weights(self, weights: Any) -> None:
        """The clients below get the model in their mailboxes."""

    def fit(self, _data: object, _learning_rate: float) -> None:
        """Not called: ``_Above`` trains."""
        raise RuntimeError("a region's training is a round of its clients")


class _Client(FederatedClient):
    model: _Round

    @property
    def _frozen_digest(self) -> str:
        """What the clients below have agreed on; here nothing is known of the weights behind it."""
        return self.model.region.fixed_state.get(FROZEN_WEIGHTS, "none")

    def layout_for(self, local: LocalTraining) -> Layout:
        """Refuse what does not nest."""
        if local.scaffold:
            raise ConfigError(
                "the federation above runs with --scaffold, and control variates do not nest:"
                " start it without"
            )
        if local.exchange == TRAINABLE and (words := self.model.region.other_exchange(local)):
            raise ConfigError(words)
        return super().layout_for(local)

    def initial(self, local: LocalTraining = AS_IT_IS) -> Weights:
        """What a federation above can begin with that trains as ``local`` says."""
        if words := self.model.region.other_exchange(local):
            raise ConfigError(words)
        self.layout_for(local)
        return super().initial(local)


class _Task(Task):
    def client(self) -> FederatedClient:
        return _Client(self.model, None, 1.0, num_examples=1)


class Region(TaskSource):
    """What a region has for a task.

    ``weights``: a model of the federation's layout; ``begun``: what its clients train from already,
    if an earlier process has begun that; ``config``: what they are told; ``fixed_state``: of their
    run.
    """

    def __init__(
        self,
        handover: Handover,
        weights: Weights,
        begun: ModelManifest | None,
        config: Mapping[str, Setting],
        fixed_state: Mapping[str, str],
    ) -> None:
        self.handover, self.weights, self.begun = handover, weights, begun
        self.fixed_state = fixed_state
        self._config = config

    def other_exchange(self, above: LocalTraining) -> str:
        """What is wrong if the federation above exchanges other tensors; empty if it does not."""
        here = TRAINABLE if FROZEN_WEIGHTS in self.fixed_state else ALL
        if above.exchange == here:
            return ""
        return (
            f"the federation above runs with --exchange {above.exchange}, and this coordinator's"
            f" run was begun with --exchange {here}: begin a run with that of above, in another"
            " --checkpoint-dir"
        )

    def worker(self, settings: ClientSettings) -> ClientWorker:
        """The client above, for a thread beside the coordinator's."""
        mute = Supervisor(None, may_speak=False)  # the main thread says whether we are well
        return ClientWorker(settings, self, participant=partial(_Above, self), supervisor=mute)

    def check_place(self, settings: ClientSettings) -> None:
        """It has no shard that could be another than its place."""

    def takes(self, name: str) -> bool:  # noqa: ARG002
        """Nothing: it has no parameters."""
        return False

    def arguments(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Not its own; but the clients below must have been told the same."""
        for name, value in config.items():
            if self._config.get(name) != value:
                raise ConfigError(
                    f"the federation above has --config {name}={value}, of which clients below do"
                    " not hear: give it to this coordinator as well"
                )
        return {}

    def make(self, arguments: Mapping[str, Any]) -> Task:  # noqa: ARG002
        """A task that stands for the clients below."""
        return _Task(_Round(self), None)


def settings_above(bundle: Path, below: WorkerSettings) -> ClientSettings:
    """A client as ``bundle`` alone says: the environment is about the federation below.

    Raises ConfigError if it is no bundle of a client that is one and the same for ever.
    """
    try:
        told = in_bundle(ClientSettings, bundle)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--parent {bundle} cannot be read: {error}") from None
    if "broker_url" not in told:
        raise ConfigError(f"--parent {bundle} is not the bundle of a client above")
    fields = ClientSettings.model_fields
    values = {name: one.get_default() for name, one in fields.items() if not one.is_required()}
    values |= {name: told[name] for name in FROM_BUNDLE if name in told}
    values |= {"task": "region", "wait_broker_s": below.wait_broker_s}
    try:
        given = ClientSettings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"--parent {bundle}: {first['loc'][0]}: {first['msg']}") from None
    if given.fleet is not None and given.client is None:
        # It could come back in another place, and send what it had sent as somebody else.
        raise ConfigError(
            f"--parent {bundle} is a fleet's, and a region is one client for ever: add its place to"
            f" the file, such as WARREN_CLIENT={given.fleet}.0"
        )
    if not is_user_name(given.user):
        raise ConfigError(f"--parent {bundle} is of the user {given.user!r}, which is no client")
    if given.broker_url.rpartition("@")[2] == below.broker_url.rpartition("@")[2]:
        raise ConfigError(f"--parent {bundle} is of this very federation, {below.federation!r}")
    return given
