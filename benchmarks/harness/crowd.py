"""Replicas of a fleet as a person starts them, and what their logs and the broker say when."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Condition, Thread
from typing import Any, Final

import numpy as np

from benchmarks.harness.federation import Stand
from benchmarks.harness.processes import Worker, WorkerFailed, worker
from warren_shared.naming import fleet_member, mailbox
from warren_shared.service.broker_check import Inspection
from warren_shared.tls import Broker

FLEET: Final = "joiner"
SPARE: Final = 10  # places beyond those that are wanted, so that a round never closes
SIZE: Final = 1000  # float32 of a model that costs nothing
TIMEOUT_S: Final = 120.0
LOOK_S: Final = 0.005  # how often the broker is asked whether a place is free


class Roll:
    """What the coordinator has said so far: when who joined, and whose update it took first."""

    def __init__(self, coordinator: Worker) -> None:
        self._changed = Condition()
        self._published = False
        self.joined: dict[str, list[float]] = {}
        self.accepted: dict[str, float] = {}
        self._reader = Thread(target=self._read, args=(coordinator,), daemon=True)
        self._reader.start()

    def _read(self, coordinator: Worker) -> None:
        try:
            for record in coordinator.records(600):
                with self._changed:
                    self._note(record)
                    self._changed.notify_all()
        except WorkerFailed:
            return  # it is killed at the end; whoever waits for more is told after TIMEOUT_S

    def _note(self, record: Mapping[str, Any]) -> None:
        match record["action"]:
            case "model_published":
                self._published = True
            case "client_joined":
                self.joined.setdefault(record["client"], []).append(record["time"])
            case "update_accepted":
                self.accepted.setdefault(record["client"], record["time"])

    def wait_for(self, joins: int, updates: int = 0) -> None:
        """Return when so many joins and first updates were seen, and a model published."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: (
                    self._published
                    and sum(map(len, self.joined.values())) >= joins
                    and len(self.accepted) >= updates
                ),
                TIMEOUT_S,
            ):
                raise WorkerFailed(
                    f"of {joins} joins there are {sum(map(len, self.joined.values()))}"
                )


class Crowd:
    """Client processes of one fleet, all started with the same words."""

    def __init__(self, on: Stand, stack: ExitStack, count: int, heartbeat_s: int | None) -> None:
        self._on, self._stack = on, stack
        self._bundle = on.folder / "crowd.env"
        text = on.bundle(FLEET).read_text()
        if heartbeat_s is not None:
            first, _, rest = text.partition("\n")
            text = f"{first}?heartbeat={heartbeat_s}\n{rest}"
        self._bundle.write_text(text)
        self.workers: list[Worker] = []
        initial = on.folder / "initial.npz"
        np.savez(initial, np.zeros(SIZE, np.float32))
        told = [f"--quorum={count + SPARE}", f"--initial-model={initial}"]
        told += [f"--checkpoint-dir={on.folder / 'checkpoint'}"]
        log, bundle = on.folder / "coordinator.log", on.bundle("coordinator")
        self.roll = Roll(
            stack.enter_context(worker("coordinator-worker", bundle, log, *told, followed=True))
        )
        self.roll.wait_for(0)

    def start(self) -> Worker:
        """One more."""
        log = self._on.folder / f"client-{len(self.workers)}.log"
        task = ("--task", "benchmarks.tasks:counting", "--size", str(SIZE))
        started = self._stack.enter_context(worker("client-worker", self._bundle, log, *task))
        self.workers.append(started)
        return started

    def free_places(self, places: Sequence[str]) -> Iterator[tuple[str, float]]:
        """Each of ``places`` with the time at which nobody holds it any more."""
        held = set(places)
        until = time.time() + TIMEOUT_S
        url = self._bundle.read_text().partition("=")[2].splitlines()[0]
        with closing(Inspection(Broker(url), "places")) as inspection:
            list(inspection.reach())
            while held and time.time() < until:
                for place in sorted(held):
                    found = inspection.queue(mailbox(place))
                    if found is not None and not found[1]:
                        held.remove(place)
                        yield place, time.time()
                time.sleep(LOOK_S)
        if held:
            raise WorkerFailed(f"still held after {TIMEOUT_S:.0f} s: {sorted(held)}")


def story(log: Path) -> tuple[str, float]:
    """The place that a client took, and when it was ready: all imported, about to connect."""
    records = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    ready = next((each["time"] for each in records if each["action"] == "started"), None)
    place = next((each["client"] for each in records if each["action"] == "training"), None)
    if ready is None or place is None:
        raise WorkerFailed(f"{log.stem} has not joined: {records[-1:]}")
    return str(place), float(ready)


def members(count: int) -> list[str]:
    """The first ``count`` places."""
    return [fleet_member(FLEET, number) for number in range(count)]
