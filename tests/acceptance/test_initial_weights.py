"""Whose weights a run begins with: those of the client that was asked, if there is room."""

from pathlib import Path

import numpy as np
from xxhash import xxh3_64

from tests.acceptance.test_federation import start_client, start_coordinator
from tests.acceptance.withstood import Hostile, body
from tests.conftest import Place
from tests.support.processes import workers
from warren_shared.tensors.layout import Weights

TIB = {"name": "w", "shape": [1 << 38], "dtype": "float32"}


def test_initial_weights_that_nobody_asked_for_decide_nothing(place: Place, tmp_path: Path) -> None:
    """They made another architecture of the run, and every honest client ended with it."""
    alfa = Hostile(place, "alfa", "ab" * 4, 0, Weights.of([np.zeros(1)]))
    data = bytes(8)
    small = {"size_bytes": 8, "digest": xxh3_64(data).intdigest()}
    tib = {"size_bytes": 1 << 40, "digest": 0}
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1", "--rounds", "2")
        started.append(coordinator)
        coordinator.wait_for("connected")
        alfa.send(body(alfa.header("initial", **small), data))
        assert coordinator.wait_for("update_rejected", client="alfa")["reason"] == "unasked"
        alfa.send(body(alfa.header("initial", **tib | {"tensors": [TIB]}), bytes(1 << 20)))
        assert coordinator.wait_for("update_rejected", client="alfa")["reason"] == "unasked"
        client = start_client(place, "bravo", "line")
        started.append(client)
        assert coordinator.wait_for("initial_model")["client"] == "bravo"
        assert [worker.end() for worker in started] == [0, 0]


def test_whoever_is_asked_brings_no_more_than_there_is_room_for_and_the_next_is_asked(
    place: Place, tmp_path: Path
) -> None:
    alfa = Hostile(place, "alfa", "ab" * 4, 0, Weights.of([np.zeros(1)]))
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1", "--rounds", "2")
        started.append(coordinator)
        coordinator.wait_for("connected")
        alfa.send(body(alfa.header("join")))
        coordinator.wait_for("client_joined", client="alfa")
        tib = {"size_bytes": 1 << 40, "digest": 0, "tensors": [TIB]}
        alfa.send(body(alfa.header("initial", **tib), bytes(1 << 20)))
        assert coordinator.wait_for("update_rejected", client="alfa")["reason"] == "size"
        client = start_client(place, "bravo", "line")
        started.append(client)
        assert coordinator.wait_for("initial_model")["client"] == "bravo"
        assert [worker.end() for worker in started] == [0, 0]
