"""Queues that are deleted under running workers: they wait, learn what was lost, and go on."""

from pathlib import Path

from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle as private_node
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.acceptance.test_rollback import state_in
from tests.conftest import CLIENTS, FLEET, Place
from tests.support.processes import workers


def test_a_lost_queue_of_updates_is_trained_again_by_those_whose_work_was_in_it(
    place: Place, tmp_path: Path
) -> None:
    """And nobody ends for want of a queue, or has to have a folder deleted."""
    folder, kept = tmp_path / "checkpoint", ("--state-dir", str(tmp_path / "kept"))
    arguments = ("--quorum", "3", "--rounds", "2")
    with workers() as started:
        coordinator = start_coordinator(place, folder, *arguments)
        started.append(coordinator)
        first = start_client(place, "alfa", "ledger", "--index", "0", *kept)
        second = start_client(place, "bravo", "ledger", "--index", "1")
        started += [first, second]
        for client in (first, second):
            client.wait_for("update_confirmed", base_version=0)
            coordinator.wait_for("update_accepted")
        coordinator.kill()
        for queue in ("update", "model.bravo"):
            place.management.delete("queues", place.name, queue)
        second.wait_for("consumer_cancelled")
        private_node.bring_to_state(
            place.node, Federation(place.name, clients=CLIENTS, fleets=(FLEET,))
        )
        second.wait_for("connected")
        again = start_coordinator(place, folder, *arguments)
        started.append(again)
        again.wait_for("model_published", version=0)
        started.append(third := start_client(place, "charlie", "ledger", "--index", "2"))
        for client in (first, second):
            client.wait_for("update_lost", within_s=90.0)
            client.wait_for("update_confirmed", base_version=0)
        assert [worker.end() for worker in (again, first, second, third)] == [0] * 4
    state = state_in(folder)
    assert list(state.weights[0][:3] * 3) == [2, 2, 2], "each of the two rounds has each once"
