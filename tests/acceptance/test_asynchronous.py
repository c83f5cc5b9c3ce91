"""Rounds that close without everybody: deadlines, sampling, late updates, who took part."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pika
import pytest

from coordinator_worker.state import roster
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.acceptance.test_federation import final_weights, start_client, start_coordinator
from tests.conftest import CLIENTS, FLEET, Place
from tests.support.processes import workers
from warren_shared.protocol.sampling import is_drawn

SLOW_S = "8"  # longer than it takes another client to start, train and be counted


def last_state(folder: Path) -> State:
    state = checkpoint.load(folder)
    assert state is not None
    return state


def test_a_round_past_its_deadline_closes_with_what_is_there(place: Place, tmp_path: Path) -> None:
    arguments = ("--quorum", "4", "--deadline-s", "0.5", "--min-quorum", "2", "--rounds", "2")
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, *arguments)
        started.append(coordinator)
        started.append(start_client(place, "alfa", "ledger", "--index", "0"))
        overdue = coordinator.wait_for("round_overdue")
        assert "the next 1 will close the round" in overdue["message"]
        started.append(start_client(place, "bravo", "ledger", "--index", "1"))
        assert coordinator.end() == 0
    state = last_state(tmp_path)
    assert [record.updates for record in state.history] == [2, 2]
    np.testing.assert_array_equal(state.weights[0][:3], [1.0, 1.0, 0.0])


def test_only_those_drawn_train_until_the_deadline_lets_the_others_in(
    place: Place, tmp_path: Path
) -> None:
    rounds, share = 6, 0.5
    arguments = ("--quorum", "4", "--participation", str(share), "--deadline-s", "0.7")
    with workers() as started:
        clients = [
            start_client(place, user, "ledger", "--index", str(index))
            for index, user in enumerate(CLIENTS)
        ]
        started += clients
        for client in clients:
            client.wait_for("connected")
        coordinator = start_coordinator(
            place, tmp_path, *arguments, "--min-quorum", "1", "--rounds", str(rounds)
        )
        started.append(coordinator)
        assert [worker.end() for worker in started] == [0] * 5
    state = last_state(tmp_path)
    assert state.version == rounds
    for client in clients:
        records = [json.loads(line) for line in client.lines if line.startswith("{")]
        trained = {r["base_version"] for r in records if r["action"] == "update_confirmed"}
        skipped = {int(r["message"].split()[-1]) for r in records if r["action"] == "not_drawn"}
        user = CLIENTS[clients.index(client)]
        drawn = {v for v in range(rounds) if is_drawn(state.run, v, user, share)}
        assert not skipped & drawn
        # Whoever trained undrawn had been let in first, in a round for which nobody was drawn.
        nobody = {v for v in range(rounds) if not drawn_at(state.run, v, share)}
        assert trained <= drawn | nobody


def drawn_at(run: str, version: int, share: float) -> list[str]:
    return [user for user in CLIENTS if is_drawn(run, version, user, share)]


def test_a_round_for_which_nobody_was_drawn_goes_on_with_all_hands(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        client = start_client(place, "alfa", "ledger")
        coordinator = start_coordinator(
            place, tmp_path, "--quorum", "1", "--rounds", "1",
            "--participation", "0.000000001", "--deadline-s", "0.3",
        )  # fmt: skip
        started += [client, coordinator]
        client.wait_for("not_drawn")
        client.wait_for("update_confirmed", base_version=0)
        assert coordinator.end() == 0


def test_a_client_that_joins_after_the_deadline_is_let_in_too(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        first = start_client(place, "alfa", "ledger")
        coordinator = start_coordinator(
            place, tmp_path, "--quorum", "2", "--min-quorum", "2", "--rounds", "1",
            "--participation", "0.000000001", "--deadline-s", "0.3",
        )  # fmt: skip
        started += [first, coordinator]
        first.wait_for("update_confirmed", base_version=0)
        started.append(start_client(place, "bravo", "ledger", "--index", "1"))
        assert coordinator.end() == 0


def test_a_slow_client_costs_the_others_nothing_and_counts_late_with_less_weight(
    place: Place, tmp_path: Path
) -> None:
    arguments = ("--quorum", "1", "--max-staleness", "1", "--rounds", "2")
    with workers() as started:
        slow = start_client(place, "bravo", "slow", "--index", "1", "--seconds", SLOW_S)
        coordinator = start_coordinator(place, tmp_path, *arguments)
        started += [slow, coordinator]
        slow.wait_for("training")
        fast = start_client(place, "alfa", "once", "--index", "0")
        started.append(fast)
        coordinator.wait_for("model_published", version=1)
        accepted = coordinator.wait_for("update_accepted", client="bravo")
        assert accepted["base_version"] == 0
        assert coordinator.end() == 0
    np.testing.assert_array_equal(final_weights(tmp_path)[0][:2], [1.0, 1.0])


def send_rubbish(place: Place, client: str) -> None:
    """What no coordinator can read, from an enrolled ``client`` that never joined."""
    connection = pika.BlockingConnection(pika.URLParameters(place.urls[client]))
    told = pika.BasicProperties(user_id=client)
    connection.channel().basic_publish("update", "update", b"rubbish", told)
    connection.close()


def test_the_report_says_who_contributed_who_is_late_gone_rejected_and_never_came(
    place: Place, tmp_path: Path
) -> None:
    rounds = roster.GONE_AFTER + 2
    with workers() as started:
        gone = start_client(place, "bravo", "line", "--shard", "1")
        coordinator = start_coordinator(
            place, tmp_path, "--quorum", "1", "--max-staleness", "3", "--rounds", str(rounds)
        )
        started += [gone, coordinator]
        gone.wait_for("update_confirmed", base_version=0)
        gone.kill()
        send_rubbish(place, "delta")
        coordinator.wait_for("update_rejected", client="delta")
        started.append(start_client(place, "alfa", "line"))
        assert coordinator.end() == 0
    command = [sys.executable, "-m", "coordinator_worker.cli", "participation"]
    said = subprocess.run(
        [*command, "--checkpoint-dir", str(tmp_path), "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    lines = {line["client"]: line for line in map(json.loads, said.stdout.splitlines())}
    assert lines["alfa"]["status"] == "in"
    assert lines["bravo"]["status"] == "gone"
    assert lines["bravo"]["data_share"] == pytest.approx(120 / 220)
    assert (lines["delta"]["status"], lines["delta"]["rejected"]) == ("rejected", 1)
    never = {client for client, line in lines.items() if line["status"] == "unseen"}
    assert never == {*CLIENTS, FLEET.name} - {"alfa", "bravo", "delta"}
    assert lines["alfa"]["contributions"] + lines["bravo"]["contributions"] == rounds
    table = subprocess.run(
        [*command, "--checkpoint-dir", str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert "gone" in table.stdout
