"""A coordinator that becomes active again goes on from what another one has written meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator_worker.runtime import worker
from coordinator_worker.runtime.event_loop import CoordinatorLoop
from coordinator_worker.runtime.inbox import Connected, Event, Lost, Stop
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.unit.coordinator_worker.runtime.test_crash_points import (
    LAYOUT,
    PROBE,
    RUN,
    SETTINGS,
    Broker,
    Life,
)
from warren_shared.amqp.delivery import Delivery
from warren_shared.errors import BrokerUnavailable
from warren_shared.naming import COORDINATOR_USER
from warren_shared.protocol.messages import Newest
from warren_shared.service.lifecycle import StopSignal
from warren_shared.tensors.layout import Weights


class Replaced(Life):
    """Loses its connection, is replaced, and is cut off once more when it becomes active again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Broker(), 1_000_000, first=False, sight=0)
        self.folder = folder
        self.epoch = 1
        self.asked = 0
        self.events = self.story()

    def story(self) -> Iterator[Delivery | Event]:
        yield Connected()
        yield self.probe()
        yield Lost()
        weights = Weights.empty(LAYOUT)
        weights[0][0] = 1.0
        checkpoint.save(self.folder, State("f", RUN, 1, weights, applied={}))
        yield Connected()
        yield self.probe()
        assert self.epoch == 2, "it was cut off when it asked which version is the newest"
        yield Lost()
        yield Connected()
        yield self.probe()
        yield Stop()

    def probe(self) -> Delivery:
        return Delivery(memoryview(PROBE), 1, self.epoch, COORDINATOR_USER, redelivered=False)

    def get(self) -> Delivery | Event:
        return next(self.events)

    def newest(self) -> tuple[Newest, ...]:
        self.asked += 1
        if self.asked == 2:
            raise BrokerUnavailable("it was cut off")
        return super().newest()

    def reopen(self) -> None:
        self.epoch += 1

    def acknowledge(self, tags: object, epoch: int) -> None:
        """The probes are nothing to remember."""


def test_who_was_cut_off_while_it_took_over_goes_on_from_the_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had read it, and went on from its own version all the same: versions 47 to 49 became
    other models, and the updates in them were lost."""
    checkpoint.save(tmp_path, State("f", RUN, 0, Weights.empty(LAYOUT), applied={}))
    life = Replaced(tmp_path)
    monkeypatch.setattr(CoordinatorLoop, "from_settings", lambda _settings: life)
    monkeypatch.setattr(worker, "on_stop_signal", lambda _stop: StopSignal())
    told = SETTINGS | {"checkpoint_dir": tmp_path, "server_optimizer": "sgd"}
    given = CoordinatorSettings(**told)  # type: ignore[arg-type]
    worker.CoordinatorWorker.from_settings(given).run()
    assert life.asked == 3
    assert len(life.broker.models[0]) == len(life.broker.models.get(1, ())) == 1
    state = checkpoint.load(tmp_path)
    assert state is not None
    np.testing.assert_array_equal(state.weights[0][:2], [1.0, 0.0])
