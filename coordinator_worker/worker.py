"""The coordinator's shell: takes deliveries one by one and does what the pure parts decide.

The order of operations at quorum is the promise of the project: compute the new model, write the
checkpoint, publish and wait for the confirms, acknowledge. Killed anywhere, the next start finds
each update either still in the broker or in the checkpoint's ledger, and never in both uncounted.
"""

import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from broker_config.names import REJECTED_EXCHANGE, UPDATE_QUEUE
from coordinator_worker.checkpoint import Checkpoint, hold
from coordinator_worker.coordinator import FederatedCoordinator
from coordinator_worker.events import Events
from coordinator_worker.fanout import Fanout, call_together, notify
from coordinator_worker.inbox import AskAgain, Event, Inbox, Lost, Sent, Stop
from coordinator_worker.initiation import Initiation
from coordinator_worker.intake import Arrival, Intake, Outcome
from coordinator_worker.quorum import Policy
from coordinator_worker.round import Round
from coordinator_worker.settings import (
    CoordinatorSettings,
    Target,
    parse_config,
    read_initial_model,
)
from coordinator_worker.staging import Staging
from coordinator_worker.state import State
from shared.amqp import MOST_UNACKNOWLEDGED, Session
from shared.chunks import message_count
from shared.delivery import Delivery, Subscription
from shared.errors import ConfigError, Rejected, Stopped
from shared.layout import Weights
from shared.log import Log
from shared.messages import Notice, UpdateManifest
from shared.pipeline import Publication
from shared.service import LAST_CHANCE_S, ReadyFile, on_stop_signal

log = Log(__name__)

# Two buffers as large as the model are always there, the model and the sum; staging and what is on
# its way here get about as much as one more.
IN_FLIGHT_BYTES: Final = 8 << 20


class CoordinatorWorker:
    """One training run: from its checkpoint, or from version 0, to its goal or a signal."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        self._settings = settings
        self._config = parse_config(settings.config)
        self._target = Target.parse(settings.target) if settings.target else None
        self._policy = Policy(settings.quorum, settings.max_staleness, settings.staleness_exponent)
        self._folder = _writable(settings.checkpoint_dir)
        self._lock = hold(self._folder)
        self._checkpoint = Checkpoint(self._folder)
        self._state = self._first_state()
        self._staging = Staging(self._folder, memory_bytes=0)
        self._intake = Intake(settings.federation, self._policy, self._staging)
        self._initiation = Initiation(self._ask_for_weights, lambda: self._inbox.put(AskAgain()))
        self._ready = ReadyFile(settings.ready_file)
        name = f"coordinator · {settings.federation}"
        # Two connections: a broker short of memory stops reading from a connection that
        # publishes, and acknowledgements must not be stuck behind a model.
        self._out = Session(settings.broker_url, f"{name} · models out")
        self._inbox = Inbox(lambda: self._in.pause(), lambda: self._in.resume())  # noqa: PLW0108
        self._in = Session(
            settings.broker_url,
            f"{name} · updates in",
            Subscription((UPDATE_QUEUE,), self._inbox.deliver, tag="coordinator"),
            on_ready=lambda _queue: self._ready.show(),
            on_lost=self._lost,
        )
        self._events = Events(self._out, federation=settings.federation)
        self._epoch = 0  # of the connection over which all that is unacknowledged came
        self._fanout: Fanout | None = None
        self._finished = False
        self._sender = ThreadPoolExecutor(1, "send")
        self._sending: tuple[Future[None], list[int], int] | None = None

    def run(self) -> None:
        """Serve until the goal is reached or a signal asks to stop."""
        on_stop_signal(self._stop)
        patience_s = self._settings.wait_broker_s
        try:
            self._out.start(patience_s)
            if self._state is not None:
                self._begin(self._state)
            else:
                call_together(self._out)
            if not self._finished:
                self._in.start(patience_s)
            while not self._finished:
                item = self._inbox.get()
                if isinstance(item, Stop):
                    log.info(
                        "stopping", "asked to stop; what is not in a model stays in the broker"
                    )
                    break
                self._step(item)
            self._settle_sending()
        except Stopped:
            log.warning("stopped", "stopped while the broker was away; nothing is lost")
        except OSError as error:
            raise ConfigError(
                f"--checkpoint-dir {self._folder} cannot be written: {error}; make room and start"
                " again, nothing is lost"
            ) from error
        finally:
            self._in.close()
            self._out.close()
            self._sender.shutdown()
            self._ready.hide()

    def _stop(self) -> None:
        self._inbox.put(Stop())
        self._out.close_within(LAST_CHANCE_S)

    def _lost(self) -> None:
        self._ready.hide()
        self._inbox.put(Lost())

    def _first_state(self) -> State | None:
        """The checkpoint's state, or version 0 from --initial-model, or None: ask a client."""
        settings = self._settings
        state = self._checkpoint.state
        if state is not None:
            if state.federation != settings.federation:
                raise ConfigError(
                    f"{self._folder} holds a checkpoint of federation {state.federation!r}, this"
                    f" is {settings.federation!r}: give another --checkpoint-dir"
                )
            return state
        if settings.initial_model is None:
            return None
        return self._version_zero(read_initial_model(settings.initial_model))

    def _version_zero(self, weights: Weights) -> State:
        return State(self._settings.federation, secrets.token_hex(4), 0, weights, applied={})

    def _begin(self, state: State) -> None:
        """Start from ``state``: everybody hears of its model, whoever missed it before."""
        messages = self._policy.quorum * message_count(state.weights.buffer.nbytes)
        if messages > MOST_UNACKNOWLEDGED:
            raise ConfigError(
                f"--quorum {self._policy.quorum}: so many updates of this model are {messages}"
                f" messages, and a consumer may hold {MOST_UNACKNOWLEDGED}; lower the quorum"
            )
        self._state = state
        self._finished = self._is_goal(state)
        self._fanout = Fanout(
            self._out,
            state.weights,
            federation=state.federation,
            run=state.run,
            version=state.version,
            config=self._config,
            max_staleness=self._policy.max_staleness,
            final=self._finished,
        )
        self._coordinator = FederatedCoordinator([self._fanout])
        self._round = Round(state.weights.layout)
        self._staging.memory_bytes = max(0, state.weights.buffer.nbytes - IN_FLIGHT_BYTES)
        self._coordinator.send(state.weights)
        self._tell_published(state)
        if self._finished:
            log.info(
                "finished",
                "the run reached its goal at version %d; nothing is left to do",
                state.version,
            )

    def _is_goal(self, state: State) -> bool:
        rounds = self._settings.rounds
        if rounds is not None and state.version >= rounds:
            return True
        last = state.history[-1]["metrics"] if state.history else {}
        return self._target is not None and self._target.reached(last)

    def _step(self, item: Delivery | Event) -> None:
        match item:
            case Lost():
                # All that is unacknowledged is delivered again, so what is in memory must not stay.
                self._intake.reset()
                if self._state is not None:
                    self._round = Round(self._state.weights.layout, self._round.sum.total)
            case Sent() if self._sending is not None and self._sending[0].done():
                self._settle_sending()
            case AskAgain():
                if self._state is None:
                    self._initiation.reminded()
            case Delivery() if item.epoch == self._in.epoch:
                self._receive(item)
            case _:
                pass  # a delivery of a connection that is gone; it comes again over the new one

    def _receive(self, item: Delivery) -> None:
        # Not the session's epoch at the time of acknowledging: the link may be lost and back while
        # a model is published, and on the new channel these tags are other deliveries.
        self._epoch = item.epoch
        outcome = self._intake.receive(item, self._state)
        if self._state is None and not outcome.settled:
            self._initiation.moved()
        if outcome.join is not None:
            self._welcome(outcome.join.client)
        if outcome.rejected is not None:
            self._reject(outcome, outcome.rejected, item)
        if outcome.whole is not None:
            self._take(outcome.whole)
        if outcome.settled:
            self._in.acknowledge(outcome.settled, item.epoch)

    def _welcome(self, client: str) -> None:
        log.info("client_joined", "%s joined", client, client=client)
        self._events.post("client.joined", client=client)
        if self._fanout is None:
            self._initiation.joined(client)
        else:
            self._settle_sending()  # or it would hear of a model that is not published yet
            self._fanout.send_to(client)

    def _ask_for_weights(self, client: str) -> None:
        notify(self._out, client, Notice(notice="send-initial", config=self._config))

    def _take(self, arrival: Arrival) -> None:
        if not isinstance(arrival.manifest, UpdateManifest):
            self._take_initial(arrival)
            return
        state = self._state
        if state is None:
            raise RuntimeError("an update was admitted before there was a model")
        self._round.fold(arrival)
        manifest = arrival.manifest
        progress = (self._round.updates, self._policy.quorum)
        log.info(
            "update_accepted",
            "%s contributed to version %d (%d of %d)",
            manifest.client,
            state.version + 1,
            *progress,
            client=manifest.client,
            base_version=manifest.base_version,
        )
        self._events.post(
            f"update.accepted.{manifest.client}",
            client=manifest.client,
            version=state.version,
            base_version=manifest.base_version,
            examples=manifest.num_examples,
            bytes=manifest.size_bytes,
            metrics=manifest.metrics,
            quorum=progress,
        )
        if self._policy.closes(self._round.updates):
            self._close_round(state)

    def _take_initial(self, arrival: Arrival) -> None:
        if self._state is None:
            weights = Weights.uninitialized(arrival.layout)
            for start, data in arrival.chunks():
                weights.buffer[start : start + len(data)] = data
            state = self._version_zero(weights)
            self._checkpoint.save(state)
            log.info(
                "initial_model",
                "%s sent the initial model",
                arrival.manifest.client,
                client=arrival.manifest.client,
            )
            self._begin(state)
        arrival.release()
        self._in.acknowledge(arrival.tags, self._epoch)

    def _close_round(self, state: State) -> None:
        """Compute, checkpoint, publish, acknowledge, in this order and no other.

        The model's bytes are on their way while the checkpoint is written, but its last message is
        held back until the checkpoint is on the disk, and without that no client has a model.
        Publishing a large model takes seconds in which the next round's first updates may come:
        they are folded meanwhile. Acknowledging waits for its end, in ``_settle_sending``.
        """
        self._settle_sending()
        closed, spare = self._round, state.weights
        weights = self._coordinator.aggregate([closed.sum])
        record = closed.record(state.version + 1, self._intake.incomplete)
        state = state.after(weights, closed.contributions, record, self._policy.max_staleness)
        self._finished = self._is_goal(state)
        if self._fanout is None:
            raise RuntimeError("a round closed before there was a model")
        self._fanout.describe(version=state.version, final=self._finished)
        self._fanout.hold()
        sending = self._sender.submit(self._coordinator.send, weights)
        self._checkpoint.save(state)
        self._fanout.release()
        self._sending = (sending, closed.tags, self._epoch)
        sending.add_done_callback(lambda _sending: self._inbox.put(Sent()))
        self._state = state
        self._in.acknowledge(self._intake.round_closed(state), self._epoch)
        self._round = Round(weights.layout, memory=spare)
        self._events.post("round.closed", run=state.run, **record)

    def _settle_sending(self) -> None:
        """Wait until the newest model is published, if it is not; let its updates go."""
        if self._sending is None or self._state is None:
            return
        sending, tags, epoch = self._sending
        sending.result()
        self._sending = None
        self._in.acknowledge(tags, epoch)
        self._tell_published(self._state)

    def _tell_published(self, state: State) -> None:
        log.info("model_published", "version %d is published", state.version, version=state.version)
        self._events.post(
            "federation.finished" if self._finished else "model.published",
            run=state.run,
            version=state.version,
            bytes=state.weights.buffer.nbytes,
            quorum=(0, self._policy.quorum),
        )

    def _reject(self, outcome: Outcome, rejected: Rejected, delivery: Delivery) -> None:
        """Dead-letter a copy with the reason, tell the sender, then let the original go."""
        client = outcome.client or "unknown"
        log.warning(
            "update_rejected",
            "rejected from %s: %s",
            client,
            rejected,
            client=client,
            reason=rejected.reason,
        )
        headers = {"reason": rejected.reason, "detail": rejected.detail, "client": client}
        letter = Publication(
            REJECTED_EXCHANGE, "", (delivery.body,), "rejected", persistent=True, headers=headers
        )
        self._out.publish([letter])
        notice = Notice(
            notice="rejected",
            reason=rejected.reason,
            detail=rejected.detail,
            base_version=outcome.base_version,
        )
        if outcome.client is not None:
            notify(self._out, outcome.client, notice)
        self._events.post(f"update.rejected.{client}", **headers)


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--checkpoint-dir {folder} cannot be written: {error}") from None
    return folder
