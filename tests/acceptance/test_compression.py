"""Updates in few bits over a real broker: trained from, counted once, and what is sent is known."""

import json
import signal
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from client_worker.runtime.update_store import UpdateStore
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.audit_files import read
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.processes import Worker, workers
from tests.support.relay import Relay
from warren_shared.protocol.transfer import digest
from warren_shared.tensors.compression import ENCODINGS, size_bytes
from warren_shared.tensors.layout import CONTROL, Layout, Weights
from warren_shared.tensors.model_change import DOWNLINKS

ROUNDS = 12
CLIENTS = ("alfa", "bravo", "charlie")
EXAMPLES = (100, 120, 140)


def federation(place: Place, folder: Path, *arguments: str) -> State:
    """The last state of a run of three clients, each of which keeps its state below ``folder``."""
    with workers() as started:
        for shard, user in enumerate(CLIENTS):
            kept = ("--state-dir", str(folder / "kept"))
            started.append(start_client(place, user, "descent", *kept, "--shard", str(shard)))
        told = ("--quorum", "3", "--rounds", str(ROUNDS), *arguments)
        started.append(start_coordinator(place, folder / "checkpoint", *told))
        assert [worker.end() for worker in started] == [0, 0, 0, 0], started[-1].said
    state = checkpoint.load(folder / "checkpoint")
    assert state is not None
    return state


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_clients_send_so_few_bytes_and_the_model_learns(
    place: Place, tmp_path: Path, encoding: str
) -> None:
    state = federation(place, tmp_path, "--uplink", encoding)
    first, *_, last = state.history
    assert {record.updates for record in state.history} == {3}
    assert first.bytes_up == 3 * size_bytes(state.weights.layout, encoding)
    assert first.raw_bytes_up == 3 * state.weights.layout.size_bytes
    assert last.metrics["loss"] < first.metrics["loss"] / 2


@pytest.mark.parametrize("encoding", ["1bit", "int8"])
def test_a_control_variate_is_the_sum_of_what_was_sent(
    place: Place, tmp_path: Path, encoding: str
) -> None:
    """And not of what was meant, or the global one would no longer be the clients' mean."""
    state = federation(place, tmp_path, "--scaffold", "--uplink", encoding)
    of_all = [
        array
        for tensor, array in zip(state.weights.layout.tensors, state.weights, strict=True)
        if tensor.name.startswith(CONTROL)
    ]
    trained = Layout(tuple(t for t in state.weights.layout.tensors if CONTROL not in t.name))
    kept = []
    for client in CLIENTS:
        found = UpdateStore(tmp_path / "kept").state("control", client, trained.with_controls)
        assert found is not None
        kept.append(Weights(trained.with_controls, found.buffer)[: len(of_all)])
    for place_, array in enumerate(of_all):
        assert array.any()
        mean = np.average([each[place_] for each in kept], axis=0, weights=EXAMPLES)
        np.testing.assert_allclose(array, mean, rtol=1e-5, atol=1e-7)


def seen(folder: Path, client: str) -> list[str]:
    return (folder / f"{client}.seen").read_text().split()


def witness(place: Place, folder: Path, user: str, url: str | None = None) -> Worker:
    file = folder / f"{user}.seen"
    file.touch()
    told = ("--seen", str(file), "--shard", str(CLIENTS.index(user)))
    return Worker("client-worker", url or place.urls[user], "--task", "tests.tasks:witness", *told)


def published(folder: Path) -> tuple[State, list[str]]:
    """The last state, and of each version up to it the digest that a client notes."""
    state = checkpoint.load(folder)
    assert state is not None
    found: dict[int, str] = {}
    for _, text in read(folder):
        line = json.loads(text)
        if line["event"] == "published":
            assert found.setdefault(line["version"], line["digest"]) == line["digest"]
    found.setdefault(state.version, f"{digest(state.weights.buffer):016x}")
    return state, [found[version] for version in range(state.version + 1)]


def sizes(one: Worker) -> list[int]:
    records = (json.loads(line) for line in one.lines if line.startswith("{"))
    return [record["size_bytes"] for record in records if record["action"] == "model_published"]


def coordinator(place: Place, folder: Path, *arguments: str) -> Worker:
    return start_coordinator(place, folder / "checkpoint", "--uplink", "1bit", *arguments)


@pytest.mark.parametrize("encoding", DOWNLINKS)
def test_models_come_as_changes_and_every_client_has_the_very_model(
    place: Place, tmp_path: Path, encoding: str
) -> None:
    rounds = 12
    with workers() as started:
        started += [witness(place, tmp_path, user) for user in CLIENTS]
        told = ("--quorum", "3", "--rounds", str(rounds), "--downlink", encoding)
        started.append(one := coordinator(place, tmp_path, *told))
        assert [worker.end() for worker in started] == [0] * 4, one.said
    state, made = published(tmp_path / "checkpoint")
    assert len(set(made)) == rounds + 1
    for user in CLIENTS:
        assert seen(tmp_path, user) == made[:-1]  # nobody trains from the last
    assert state.history[-1].metrics["loss"] < state.history[0].metrics["loss"]
    code, whole = size_bytes(state.weights.layout, encoding), state.weights.layout.size_bytes
    assert sizes(one) == [whole, *[code] * (rounds - 1), whole], "the first and the last are whole"
    assert [record.bytes_down for record in state.history] == sizes(one)[1:]
    assert {record.raw_bytes_down for record in state.history} == {whole}


def test_the_whole_model_is_sent_now_and_then(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        started += [witness(place, tmp_path, user) for user in CLIENTS]
        told = ("--quorum", "3", "--rounds", "7", "--downlink", "1bit", "--full-model-every", "3")
        started.append(one := coordinator(place, tmp_path, *told))
        assert [worker.end() for worker in started] == [0] * 4, one.said
    found = sizes(one)
    assert [size == max(found) for size in found] == [True, False, False] * 2 + [True, True]
    _, made = published(tmp_path / "checkpoint")
    assert all(seen(tmp_path, user) == made[:-1] for user in CLIENTS)


@pytest.mark.parametrize("versions", [1, 10, 40])
def test_who_was_away_goes_on_from_the_very_model(
    place: Place, tmp_path: Path, versions: int
) -> None:
    """However many changes wait in its mailbox, or have been pushed out of it."""
    with closing(Relay(place.urls["charlie"])) as wire, workers() as started:
        one = coordinator(place, tmp_path, "--quorum", "2", "--downlink", "1bit")
        away = witness(place, tmp_path, "charlie", wire.url)
        started += [one, away, *(witness(place, tmp_path, user) for user in CLIENTS[:2])]
        away.wait_for("update_confirmed")
        wire.hold()
        wire.cut()
        first = one.wait_for("model_published")["version"]
        one.wait_for("model_published", version=first + versions)
        wire.release()
        away.wait_for("connected")
        away.wait_for("update_confirmed")
        away.wait_for("update_confirmed")
        one.kill(signal.SIGTERM)
        _, made = published(tmp_path / "checkpoint")
    for user in CLIENTS:
        assert set(seen(tmp_path, user)) <= set(made)


def test_whoever_is_killed_the_others_have_the_very_model(place: Place, tmp_path: Path) -> None:
    """A client in the middle of a change, and the coordinator before, after and while it sends."""
    told = ("--quorum", "2", "--downlink", "1bit")
    with workers() as started:
        started += [witness(place, tmp_path, user) for user in CLIENTS]
        for action in ("model_published", "update_accepted", "client_joined"):
            started.append(one := coordinator(place, tmp_path, *told))
            one.wait_for("model_published")
            started.append(standby := coordinator(place, tmp_path, *told))
            standby.wait_for("standby")
            for _ in range(3):
                one.wait_for("model_published")
            started[0].kill()
            started[0] = witness(place, tmp_path, CLIENTS[0])
            one.wait_for(action)
            one.kill()
            for _ in range(3):
                standby.wait_for("model_published")
            standby.kill()
        _, made = published(tmp_path / "checkpoint")
    assert len(set(made)) == len(made)
    for user in CLIENTS:
        assert set(seen(tmp_path, user)) <= set(made)
