"""A broker short of memory or disk, or out of patience with a consumer: ordinary events."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from broker_config.node.record import Node
from tests.acceptance.test_federation import final_weights, start_client, start_coordinator
from tests.conftest import Place
from tests.support.inside import consumer_timeout, disk_alarm, memory_alarm
from tests.support.processes import Worker, workers


@pytest.mark.parametrize("alarm", [memory_alarm, disk_alarm])
def test_a_broker_without_room_only_makes_everybody_wait(
    place: Place, tmp_path: Path, alarm: Callable[[Node], AbstractContextManager[None]]
) -> None:
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "2")
        clients = [
            start_client(place, user, "ledger", "--index", str(index))
            for index, user in enumerate(("alfa", "bravo"))
        ]
        started += [coordinator, *clients]
        coordinator.wait_for("model_published", version=3)
        with alarm(place.node):
            late = start_client(place, "charlie", "ledger", "--index", "2")
            started.append(late)
            assert "short of memory or disk" in late.wait_for("connection_blocked")["message"]
        assert late.wait_for("connection_unblocked")["level"] == "INFO"
        version = coordinator.wait_for("model_published")["version"]
        coordinator.wait_for("model_published", version=version + 20)
        for worker in started:
            assert worker.kill() < 0, "it was still there"
            assert "connection_lost" not in worker.said


def test_a_coordinator_that_waits_longer_than_the_broker_likes_folds_again(
    place: Place, tmp_path: Path
) -> None:
    """RabbitMQ ends a channel whose deliveries are not acknowledged for half an hour.

    From 4.3 on it only cancels the consumer.
    """
    ends = {"connection_lost", "consumer_cancelled"}
    with workers() as started, consumer_timeout(place.node, 1.0):
        coordinator = start_coordinator(place, tmp_path, "--quorum", "2", "--rounds", "1")
        started += [coordinator, start_client(place, "alfa", "ledger")]
        for _ in range(2):
            coordinator.wait_for("update_accepted", client="alfa")
            found = coordinator.records(" or ".join(ends))
            next(record for record in found if record["action"] in ends)
        started.append(start_client(place, "bravo", "ledger", "--index", "1"))
        assert [worker.end() for worker in started] == [0, 0, 0]
    np.testing.assert_array_equal(final_weights(tmp_path)[0][:3], [0.5, 0.5, 0.0])


def test_a_client_whose_training_holds_the_interpreter_keeps_its_connection(
    place: Place, tmp_path: Path
) -> None:
    """A training loop in pure Python must not starve the thread that sends heartbeats."""
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1", "--rounds", "1")
        url = f"{place.urls['alfa']}?heartbeat=2"
        client = Worker("client-worker", url, "--task", "tests.tasks:busy", "--seconds", "9")
        started += [coordinator, client]
        assert [coordinator.end(), client.end()] == [0, 0]
        assert "connection_lost" not in client.said
