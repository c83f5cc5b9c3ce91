"""Updates in few bits over a real broker: trained from, counted once, and what is sent is known."""

from pathlib import Path

import numpy as np
import pytest

from client_worker.runtime.update_store import UpdateStore
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.processes import workers
from warren_shared.tensors.compression import ENCODINGS, size_bytes
from warren_shared.tensors.layout import CONTROL, Layout, Weights

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
