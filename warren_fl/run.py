"""One run of a federation: the coordinator's process, its events as they come, its end."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Final

from coordinator_worker.monitoring import events
from coordinator_worker.monitoring.events import Posted, Stamped
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.storage import checkpoint
from warren_fl import feed
from warren_fl.result import Result, result_of
from warren_fl.workers import Client, Process
from warren_shared.errors import WarrenError

if TYPE_CHECKING:
    from coordinator_worker.state.round_record import RoundRecord

LOOK_S: Final = 0.1
END_S: Final = 10.0

Hears = Callable[[Posted], object]


class FederationFailed(WarrenError):
    """A run could not go on; the message has the reason of whoever failed."""


@dataclass(frozen=True)
class Needs:
    """``total`` clients are there in all, and a round needs updates of ``least`` of them."""

    total: int
    least: int


class Run(Iterator[Posted]):
    """The events of a run, one at a time; when there are no more, `result` has what came of it.

    ``for event in federation.start(rounds=20)`` sees each when it happens. Leaving the loop does
    not end the run: `stop` does, and so does the end of the federation's block.
    """

    def __init__(
        self,
        coordinator: Process,
        clients: Sequence[Client],
        folder: Path,
        needs: Needs | None,
        hears: Sequence[Hears],
        finish: Callable[["Run"], Result],
        on_end: Callable[[], object] | None = None,
    ) -> None:
        self.view = FederationView()
        self.records: list[RoundRecord] = []
        self._coordinator, self._clients, self._folder = coordinator, clients, folder
        self._needs, self._hears, self._finish, self._on_end = needs, hears, finish, on_end
        self._began = monotonic()
        self._ended: float | None = None
        self._reason = ""
        self._failing: dict[str, str] = {}
        self._all_rejected = ""  # why nothing counts that the clients sent for the open round
        self._result: Result | None = None
        self._queue: SimpleQueue[Stamped | None] = SimpleQueue()
        # It never waits for us: a coordinator whose events nobody reads would stand still.
        self._reader = threading.Thread(target=self._read, name="events", daemon=True)
        self._reader.start()

    @property
    def is_over(self) -> bool:
        """Whether the coordinator has ended."""
        return self._ended is not None

    def __next__(self) -> Posted:
        """The next event.

        Raises:
            FederationFailed: the coordinator ended before its time, or so many clients fail that no
                round can close.
        """
        while self._ended is None:
            try:
                stamped = self._queue.get(timeout=LOOK_S)
            except Empty:
                self._look_at_clients()
                continue
            if stamped is None:
                self._end()
                break
            event = stamped.event
            if event is None:
                continue
            self._note(stamped, event)
            for hear in self._hears:
                hear(event)
            self._look_at_clients()
            return event
        raise StopIteration

    def result(self) -> Result:
        """What came of the run, after the events that are still to come."""
        for _ in self:
            pass
        if self._result is None:
            self._result = self._finish(self)
        return self._result

    def outcome(self) -> dict[str, object]:
        """What of a `Result` the checkpoint and the events say."""
        state = checkpoint.load(self._folder)
        if state is None:
            raise FederationFailed("the run was stopped before it had a model")
        seconds = (self._ended or monotonic()) - self._began
        return result_of(state, self.view, self.records, seconds, self._reason)

    def stop(self) -> None:
        """End the run after the round that is being closed; `result` has what there is then."""
        if self._ended is None:
            self._reason = self._reason or "it was stopped"
            self._coordinator.stop()

    def close(self) -> None:
        """End the coordinator, and read no more."""
        self._coordinator.stop()
        self._reader.join(END_S)
        self._has_ended()

    def _read(self) -> None:
        try:
            with self._coordinator.events as stream:
                feed.read(stream, self._queue.put)
        finally:
            self._queue.put(None)

    def _note(self, stamped: Stamped, event: Posted) -> None:
        self.view.apply(stamped)
        match event:
            case events.RoundClosed():
                self.records.append(event.record)
            case events.RunEnds():
                self._reason = event.reason
            case events.RoundRejected():
                # One that is late is trained again, from the newer model; no other is.
                self._all_rejected = "" if event.reason == "stale" else event.words
            case events.UpdateAccepted():
                self._failing.pop(event.client, None)
                self._all_rejected = ""
            case events.ClientFailed():
                self._failing[event.client] = event.reason

    def _look_at_clients(self) -> None:
        """Raise FederationFailed if no round can close any more, or all have ended that are ours.

        None can if too many clients fail, or if all updates were rejected and nobody else sends.
        """
        if self._reason:  # it ends, and clients may, too
            return
        needs = self._needs
        ended = {c.name: why for c in self._clients if (why := c.failure()) is not None}
        failing = ended | self._failing
        why = ""
        if self._all_rejected and needs is not None:
            self.close()
            raise FederationFailed(self._all_rejected)
        if failing and needs is not None and needs.total - len(failing) < needs.least:
            why = f"{len(failing)} of {needs.total} clients failed, and a round needs {needs.least}"
        elif ended and len(ended) == len(self._clients):
            # Others may take part on a broker that is there; whether they ever will is not known.
            why = f"all {len(ended)} clients that were started here have ended"
        if why:
            self.close()
            told = "; ".join(f"{name}: {words}" for name, words in sorted(failing.items()))
            raise FederationFailed(f"{why}: {told}")

    def _has_ended(self) -> None:
        if self._ended is None:
            self._ended = monotonic()
            if self._on_end is not None:
                self._on_end()

    def _end(self) -> None:
        code = self._coordinator.exit_code(END_S)
        self._coordinator.stop()
        self._has_ended()
        if code != 0 and not self._reason:
            raise FederationFailed(f"the coordinator: {self._coordinator.last_words()}")
