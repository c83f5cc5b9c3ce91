"""A coordinator with a federation above it: a round of its clients is one update there.

Federations nest: `coordinator-worker --parent BUNDLE` is a client of the federation above, and what
it trains with is a round of its own clients (hierarchical federated averaging: Liu et al. 2020,
algorithm 1, with one edge aggregation to each cloud aggregation). Nothing on the wire is new, and
each level's promises are its own:

1. a round's result is in the checkpoint here before it goes up, so after a crash the same goes up
   again, and the ledger above counts it once;
2. the next model from above is in ``above/`` before it goes down, so a version here is one model;
3. the round's deliveries are acknowledged when it is out, as everywhere.

The coordinator has the main thread, the client above another thread; they meet in a Handover.
This is the one module that knows both workers.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from client_worker.runtime.mailbox import GlobalModel, Shelved
from client_worker.runtime.upstream_client import Handover, Region, Result, settings_above
from coordinator_worker.rounds.round import Round
from coordinator_worker.runtime.inbox import StandbyTimeout
from coordinator_worker.runtime.model_publisher import ModelPublisher
from coordinator_worker.runtime.resources import Resources, RunRules
from coordinator_worker.runtime.worker import CoordinatorWorker
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.round_record import ALWAYS, RegionResult, RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.storage.checkpoint import Checkpoint
from coordinator_worker.storage.store import ABOVE
from warren_shared.errors import BrokerRefused, ConfigError, Stopped
from warren_shared.files import private_folder
from warren_shared.observability.log import Log
from warren_shared.protocol.messages import MAX_EXAMPLES, ModelManifest, Setting
from warren_shared.tensors.evaluation import of_histograms
from warren_shared.tensors.layout import STATISTIC, Weights
from warren_shared.tensors.update import Update

if TYPE_CHECKING:
    from client_worker.runtime.worker import ClientWorker
    from client_worker.settings import ClientSettings

log = Log(__name__)

MAX_FIGURES: Final = 64  # in an update's metrics
NO_ROUND: Final = frozenset(ALWAYS) - {"version"}  # what is in ``above/`` was made by none
REPLACED_S: Final = 30.0  # not active for so long: another coordinator is


class Origin:
    """The model from above that a version here is, in a folder beside the checkpoint.

    The checkpoint has what the clients made of the last one. Who goes on with an open round needs
    both: to publish the same model again, and to know to which one above the result belongs.
    """

    def __init__(self, file: Checkpoint, version: int, model: GlobalModel | None) -> None:
        self._checkpoint = file
        self.version = version
        self.model = model

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The one in ``folder``, which is made if there is none."""
        file = Checkpoint(private_folder(folder))
        if (state := file.state) is None:
            return cls(file, -1, None)
        record = state.history[-1]
        manifest = ModelManifest.model_validate(record.extra["manifest"])
        return cls(
            file, record.version, GlobalModel(manifest, Shelved(state.weights, is_whole=True))
        )

    def put(self, version: int, model: GlobalModel) -> None:
        """Version ``version`` is ``model`` from now on; raises OSError if the disk is full."""
        above = model.manifest
        record = RoundRecord(version, absent=NO_ROUND, extra={"manifest": above.model_dump()})
        state = State(above.federation, above.run, above.version, model.weights, {}, (record,))
        self._checkpoint.save(state)
        self.version, self.model = version, model


class UpstreamFederation:
    """The model source of a region: each next model comes from the federation above.

    The client above runs on a thread of its own from the first model on.
    """

    alone = False  # while a round is open the model from above takes the place of its own

    def __init__(
        self, above: "ClientSettings", config: Mapping[str, Setting], resources: Resources
    ) -> None:
        self._above = above
        self._config = config
        self._store = resources.store
        self._loop = resources.loop
        self._disk_retry = resources.disk_retry
        self._handover = Handover()
        self._origin: Origin | None = None
        self._client: ClientWorker | None = None
        self._thread = ThreadPoolExecutor(1, "above")
        self._taking_part: Future[int] | None = None
        self._replaced_s = 0.0
        self._sent: ModelManifest | None = None  # of the model that clients have, as it came

    def begin(self, weights: Weights) -> None:
        """Take part above, unless that has ended; with ``weights`` if nothing came from there."""
        self._sent = None
        if self._origin is not None:
            return
        self._origin = Origin.read(self._store.folder / ABOVE)
        known = self._origin.model
        if known is None or not known.manifest.final:
            ours = known.weights if known is not None else _copy(weights)
            self._take_part(ours, known.manifest if known is not None else None)

    def complete(self, record: RoundRecord, closed: Round, version: int) -> RoundRecord:
        """Add what the federation above is told of the round."""
        return replace(
            record,
            above=RegionResult(
                closed.num_examples or closed.updates, closed.evaluation_of(version)
            ),
        )

    def provide(self, publisher: ModelPublisher, weights: Weights) -> None:
        """Exchange ``weights`` for the model from above, where they lie.

        What came as the change to the model that the clients have goes on to them as that.
        """
        publisher.wait_until_released()  # until it is in the checkpoint
        model = self._exchange(publisher.header.version, weights)
        weights.buffer[:] = model.weights.buffer
        above = model.manifest
        sent, self._sent = self._sent, above
        header = replace(
            publisher.header, final=above.final, local=above.local, downlink=above.downlink
        )
        publisher.set_header(header)
        if sent is not None and (sent.run, sent.version) == (above.run, above.base):
            publisher.set_change(model.change)

    def end_reason(self, manifest: ModelManifest) -> str:
        """The federation above says which model is the last."""
        return "the federation above has ended, and its last model is out" if manifest.final else ""

    def look_at_standby(self, *, active: bool) -> None:
        """Raise BrokerRefused if another coordinator needs our place above."""
        if self._client is None:
            return
        if active:
            self._replaced_s = 0.0
        elif self._replaced_s < REPLACED_S:
            self._replaced_s += REPLACED_S
            self._loop.remind(REPLACED_S, StandbyTimeout())
        else:
            raise BrokerRefused(
                "another coordinator of this region is active, and only one can be the client"
                " above: start this one again, and it will be the standby"
            )

    def stop(self) -> None:
        """End the exchange of models, and the client above; for any thread."""
        self._handover.close()
        if self._client is not None:
            self._client.stop()

    def abandon(self, publisher: ModelPublisher | None) -> None:
        """End what the sending thread waits for: a checkpoint, or a model from above."""
        self.stop()
        if publisher is not None:
            publisher.release()  # or it would wait for a checkpoint for ever

    def close(self) -> None:
        """Wait for the client above."""
        self._thread.shutdown()

    def raise_failure(self) -> None:
        """What ended the client above ends us."""
        if self._taking_part is not None:
            self._taking_part.result()

    def _exchange(self, version: int, mine: Weights) -> GlobalModel:
        """The model from above that ``version`` is; for that ``mine`` goes up first."""
        self._store.settle()  # it may be on its way to the past versions, and is overwritten next
        state, origin = self._store.state, self._origin
        if state is None or origin is None:
            raise RuntimeError("a model was to go up that is in no checkpoint")
        if state.version != version:  # or the model of another version would be published as this
            raise Stopped(f"stopped before version {version} was in the checkpoint")
        if origin.model is not None and origin.version == state.version:
            log.info("round_resumed", "going on with the round from version %d", state.version)
            return origin.model
        result = None
        if origin.model is not None and origin.version == state.version - 1:
            result = _result(state, mine, origin.model)
        model = self._handover.exchange(result, self._loop.waiting)
        above = model.manifest
        log.info(
            "model_from_above",
            "version %d here is version %d of %s",
            state.version,
            above.version,
            above.federation,
            version=state.version,
            above=above.version,
        )
        self._disk_retry.persist(partial(origin.put, state.version, model))
        return model

    def _take_part(self, weights: Weights, begun: ModelManifest | None) -> None:
        state = self._store.state
        fixed_state = state.fixed_state if state is not None else {}
        region = Region(self._handover, weights, begun, self._config, fixed_state)
        self._client = region.worker(self._above)
        self._taking_part = self._thread.submit(self._client.run, heed_signals=False)
        self._taking_part.add_done_callback(self._taken_part)

    def _taken_part(self, done: "Future[int]") -> None:
        if done.exception() is not None:
            self._handover.close()
            self._loop.ask_to_stop()


def region(settings: CoordinatorSettings) -> CoordinatorWorker:
    """A coordinator whose models come from the federation above, and whose rounds go there.

    Raises:
        ConfigError: ``--parent`` is not the bundle of a client, or what
            `CoordinatorWorker.from_settings` refuses.
    """
    rules = RunRules.from_settings(settings)
    above = client_above(settings)
    resources = Resources.open(settings, rules)
    source = UpstreamFederation(above, rules.config, resources)
    return CoordinatorWorker(settings, rules, resources, source)


def client_above(settings: CoordinatorSettings) -> "ClientSettings":
    """What the coordinator is in the federation above; raises ConfigError if it is nothing."""
    if settings.parent is None:
        raise ConfigError("a region needs --parent, its bundle of the federation above")
    return settings_above(settings.parent, settings)


def _result(state: State, weights: Weights, base: GlobalModel) -> Result:
    record = state.history[-1]
    delta = Weights.uninitialized(weights.layout)
    moved_of = zip(weights.layout.tensors, delta, weights, base.weights, strict=True)
    for tensor, moved, after, before in moved_of:
        if tensor.role == STATISTIC:
            np.copyto(moved, after)
        else:
            np.subtract(after, before, out=moved)
    if record.above is None:
        raise RuntimeError("a round's record does not say what the federation above is told")
    evaluation = record.above.evaluation
    if evaluation is not None and len(evaluation.scores) == 2:  # in a checkpoint from before
        scores = of_histograms(evaluation.scores)
        evaluation = replace(evaluation, scores=scores, is_coarse=True)
    metrics = dict(list(record.metrics.items())[:MAX_FIGURES])
    examples = min(record.above.examples, MAX_EXAMPLES)
    return Result(base.manifest, Update(delta, examples, metrics, None, evaluation))


def _copy(weights: Weights) -> Weights:
    return Weights(weights.layout, weights.buffer.copy())
