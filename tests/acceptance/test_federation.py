"""Whole federations: real processes over a real broker."""

import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from client_worker import FederatedClient
from coordinator_worker import FederatedCoordinator
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.audit_files import read
from coordinator_worker.versions.audit_report import faults, versions
from tests import tasks
from tests.conftest import Place
from tests.support.processes import Worker, workers
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.protocol.messages import UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Weights


def start_client(place: Place, user: str, task: str, *arguments: str) -> Worker:
    return Worker("client-worker", place.urls[user], "--task", f"tests.tasks:{task}", *arguments)


def start_coordinator(place: Place, folder: Path, *arguments: str) -> Worker:
    url = place.urls["coordinator"]
    return Worker("coordinator-worker", url, "--checkpoint-dir", str(folder), *arguments)


def final_weights(folder: Path) -> list[np.ndarray]:
    state = checkpoint.load(folder)
    assert state is not None
    return list(state.weights)


def test_a_federation_over_rabbitmq_learns_exactly_what_the_classes_learn_in_one_process(
    place: Place, tmp_path: Path
) -> None:
    rounds = 12
    with workers() as started:
        for shard, user in enumerate(("alfa", "bravo", "charlie")):
            started.append(start_client(place, user, "line", "--shard", str(shard)))
        started.append(start_coordinator(place, tmp_path, "--quorum", "3", "--rounds", str(rounds)))
        assert [worker.end() for worker in started] == [0, 0, 0, 0]

    made = [tasks.line(shard) for shard in range(3)]
    clients = [FederatedClient(task.model, task.data, task.learning_rate) for task in made]
    coordinator = FederatedCoordinator([client.model for client in clients])
    for _ in range(rounds):
        updates = [client.train(coordinator.weights) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
    for ours, reference in zip(final_weights(tmp_path), coordinator.weights, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-12)


def test_replicas_with_one_configuration_take_distinct_places_and_shards(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        fleet = [start_client(place, "fleet", "line", "--fleet", "fleet") for _ in range(3)]
        started += fleet
        for worker in fleet:
            worker.wait_for("connected")
        coordinator = start_coordinator(place, tmp_path, "--quorum", "3", "--rounds", "1")
        started.append(coordinator)
        assert coordinator.end() == 0
        state = checkpoint.load(tmp_path)
    assert state is not None
    clients = state.history[0].clients or {}
    assert {name: report.examples for name, report in clients.items()} == {
        "fleet.0": 100,
        "fleet.1": 120,
        "fleet.2": 140,
    }


def test_one_replica_too_many_is_told_that_all_places_are_taken(place: Place) -> None:
    with workers() as started:
        for _ in range(3):
            started.append(start_client(place, "fleet", "line", "--fleet", "fleet"))
            started[-1].wait_for("connected")
        late = start_client(place, "fleet", "line", "--fleet", "fleet", "--wait-broker-s", "1")
        started.append(late)
        assert late.end() == 1
        assert "all 3 places from model.fleet.0 on are taken" in late.said


def test_a_second_client_of_one_identity_is_refused(place: Place) -> None:
    with workers() as started:
        started.append(start_client(place, "alfa", "line"))
        started[0].wait_for("connected")
        second = start_client(place, "alfa", "line", "--wait-broker-s", "0.5")
        started.append(second)
        assert second.end() == 1
        assert "model.alfa is taken" in second.said


def test_a_coordinator_killed_in_mid_round_counts_every_update_once(
    place: Place, tmp_path: Path
) -> None:
    """The ledger: index i of the model is the number of times client i's updates took effect."""
    size = 1_000_000  # four chunks of 1 MiB, so an update is never one message
    quorum = ("--quorum", "3")
    with workers() as started:
        for index, user in enumerate(("alfa", "bravo", "charlie")):
            arguments = ("--index", str(index), "--size", str(size))
            started.append(start_client(place, user, "ledger", *arguments))
        for _ in range(6):
            killed = start_coordinator(place, tmp_path, *quorum)
            started.append(killed)
            killed.wait_for("model_published")
            for _ in range(2):
                killed.wait_for("update_accepted")
            killed.kill()
        state = checkpoint.load(tmp_path)
        assert state is not None
        rounds = state.version + 3
        ended = start_coordinator(place, tmp_path, *quorum, "--rounds", str(rounds))
        started.append(ended)
        assert ended.end() == 0
        assert [worker.end() for worker in started[:3]] == [0, 0, 0]
    (counts,) = final_weights(tmp_path)
    # Each round adds 1/3 for each of three contributions, and the killed folds left no trace.
    np.testing.assert_allclose(counts[:3], rounds / 3, rtol=1e-6)
    assert not counts[3:].any()
    made = versions(read(tmp_path))
    assert [version for _, version in made] == list(range(1, rounds + 1))
    for one in made.values():
        assert len({entry["client"] for entry in one.line["contributions"]}) == 3
    assert not list(faults(read(tmp_path)))


def test_a_second_coordinator_on_the_same_folder_waits_and_goes_on_where_the_first_ended(
    place: Place, tmp_path: Path
) -> None:
    arguments = ("--quorum", "2", "--rounds", "3")
    with workers() as started:
        first = start_coordinator(place, tmp_path, *arguments)
        started.append(first)
        first.wait_for("connected")
        second = start_coordinator(place, tmp_path, *arguments)
        started.append(second)
        second.wait_for("standby")
        started.append(start_client(place, "alfa", "ledger", "--index", "0"))
        first.wait_for("update_accepted", client="alfa")
        first.kill()
        started.append(start_client(place, "bravo", "ledger", "--index", "1"))
        second.wait_for("model_published", version=0)
        assert second.end() == 0
    counts = final_weights(tmp_path)[0]
    np.testing.assert_allclose(counts[:3], [1.5, 1.5, 0.0])


def test_a_client_killed_while_it_trains_rejoins_and_the_round_completes(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "2", "--rounds", "4")
        started.append(coordinator)
        first = start_client(place, "alfa", "line")
        started.append(first)
        first.wait_for("update_confirmed", base_version=0)
        first.kill()
        started.append(start_client(place, "alfa", "line"))
        started.append(start_client(place, "bravo", "line", "--shard", "1"))
        assert coordinator.end() == 0
        assert [worker.end() for worker in started[2:]] == [0, 0]
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert [record.updates for record in state.history] == [2, 2, 2, 2]


def test_a_target_metric_ends_the_run(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        started.append(start_client(place, "alfa", "line"))
        started.append(
            start_coordinator(place, tmp_path, "--quorum", "1", "--target", "eval_loss<=0.01")
        )
        assert [worker.end() for worker in started] == [0, 0]
    state = checkpoint.load(tmp_path)
    assert state is not None
    losses = [record.metrics["eval_loss"] for record in state.history]
    assert losses[-1] <= 0.01 < losses[-2]


def test_a_client_of_another_layout_says_so_and_the_federation_goes_on(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1")
        good = start_client(place, "alfa", "line")
        started += [coordinator, good]
        coordinator.wait_for("model_published", version=1)
        stranger = start_client(place, "bravo", "line", "--features", "9")
        started.append(stranger)
        assert stranger.end() == 2
        assert (
            "this task's model is not the federation's: this site's tensor 0 is float64 [9, 1]"
            in stranger.said
        )
        assert "Traceback" not in stranger.said
        good.wait_for("update_confirmed", base_version=5)


def test_the_federations_config_may_change_the_shape_of_every_clients_model(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        for user in ("alfa", "bravo"):
            started.append(start_client(place, user, "line", "--stay"))
            started[-1].wait_for("connected")
        for features in (3, 6):
            coordinator = start_coordinator(
                place, tmp_path / str(features), "--quorum", "2", "--rounds", "2",
                "--config", f"features={features}",
            )  # fmt: skip
            started.append(coordinator)
            assert coordinator.end() == 0
            assert final_weights(tmp_path / str(features))[0].shape == (features, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_the_workers_cleanly_and_the_run_goes_on_later(
    place: Place, tmp_path: Path, number: signal.Signals
) -> None:
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1")
        client = start_client(place, "alfa", "line")
        started += [coordinator, client]
        coordinator.wait_for("model_published", version=3)
        assert coordinator.kill(number) == 128 + number
        assert client.kill(number) == 128 + number
        assert "Traceback" not in coordinator.said + client.said
        state = checkpoint.load(tmp_path)
        assert state is not None
        again = start_coordinator(
            place, tmp_path, "--quorum", "1", "--rounds", str(state.version + 2)
        )
        started += [again, start_client(place, "alfa", "line")]
        assert again.end() == 0


def test_a_second_signal_ends_a_worker_that_is_still_busy(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        started.append(start_coordinator(place, tmp_path, "--quorum", "1"))
        client = start_client(place, "alfa", "endless")
        started.append(client)
        client.wait_for("training")
        client.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            client.process.wait(0.5)  # it finishes what it is doing
        assert client.kill(signal.SIGINT) == 128 + signal.SIGINT


def test_a_staying_client_serves_one_run_after_another(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        client = start_client(place, "alfa", "line", "--stay")
        started.append(client)
        for run, features in enumerate(("learning_rate=0.1", "learning_rate=0.05")):
            coordinator = start_coordinator(
                place, tmp_path / str(run), "--quorum", "1", "--rounds", "2", "--config", features
            )
            started.append(coordinator)
            assert coordinator.end() == 0
            client.wait_for("finished")
        assert client.kill(signal.SIGTERM) == 128 + signal.SIGTERM


def test_an_update_that_the_checkpoint_holds_already_is_not_folded_again(
    place: Place, tmp_path: Path
) -> None:
    """A coordinator killed between its checkpoint and its acknowledgements finds them again."""
    weights = Weights.of([np.zeros(4, np.float32)])
    run = "ab" * 4
    state = State(place.name, run, 1, weights, applied={"alfa": frozenset({0})})
    checkpoint.save(tmp_path, state)
    for index, user in enumerate(("alfa", "bravo")):
        delta = Weights.empty(weights.layout)
        delta[0][index] = 1.0
        manifest = UpdateManifest(
            federation=place.name, run=run, client=user, base_version=0, num_examples=1,
            layout=weights.layout.digest, **transfer_fields(delta.buffer),
        )  # fmt: skip
        session = Session.for_broker(place.urls[user], "test")
        session.start(10)
        bodies = Outgoing(manifest, delta.buffer)
        session.publish([Publication("update", "update", body, "update") for body in bodies])
        session.close()
    arguments = ("--quorum", "1", "--max-staleness", "1", "--rounds", "2")
    with workers() as started:
        started.append(start_coordinator(place, tmp_path, *arguments))
        assert started[0].end() == 0
    (counts,) = final_weights(tmp_path)
    np.testing.assert_array_equal(counts, [0.0, 1.0, 0.0, 0.0])
