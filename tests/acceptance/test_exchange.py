"""``--exchange trainable`` over a real broker: what travels, who is refused, and what goes on."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from client_worker.cli import main as client_main
from coordinator_worker import FederatedCoordinator
from coordinator_worker.cli import main as coordinator_main
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests import tasks
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.acceptance.test_regions import Tree, tree  # noqa: F401  a fixture
from tests.acceptance.test_virtual import wide  # noqa: F401  a fixture
from tests.conftest import Place
from tests.support.processes import BIN, workers
from warren_shared import weights_file
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.compression import size_bytes
from warren_shared.tensors.frozen import FROZEN_WEIGHTS
from warren_shared.tensors.layout import Weights

CLIENTS = ("alfa", "bravo", "charlie")
TRAINABLE = ("--exchange", "trainable")
TASK = "tests.tasks:adapted"


def in_one_process(
    rounds: int, local: LocalTraining, clients: int = 3, **options: object
) -> Weights:
    sites = [tasks.adapted(shard, **options).client() for shard in range(clients)]  # type: ignore[arg-type]
    coordinator = FederatedCoordinator([tasks.Held(sites[0].initial(local))])
    coordinator.population = clients
    for _ in range(rounds):
        updates = [site.train(coordinator.weights, local) for site in sites]
        coordinator.send(coordinator.aggregate(updates))
    return coordinator.weights


def federation(
    place: Place, folder: Path, *arguments: str, own: tuple[str, ...] = (), rounds: int = 6
) -> State:
    with workers() as started:
        for shard, user in enumerate(CLIENTS):
            kept = ("--state-dir", str(folder / "kept"), "--shard", str(shard), *own)
            started.append(start_client(place, user, "adapted", *kept))
        told = ("--quorum", "3", "--rounds", str(rounds), *TRAINABLE, *arguments)
        started.append(start_coordinator(place, folder / "checkpoint", *told))
        assert [worker.end() for worker in started] == [0, 0, 0, 0], started[-1].said
    return loaded(folder)


def loaded(folder: Path) -> State:
    state = checkpoint.load(folder / "checkpoint")
    assert state is not None
    return state


def figures(words: list[str], capsys: pytest.CaptureFixture[str]) -> Mapping[str, float]:
    capsys.readouterr()
    assert client_main(words) == 0
    found: Mapping[str, float] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("--scaffold",), {}),
        ((), {"own": "b"}),
        (("--proximal", "0.1"), {"ditto": 0.5}),
    ],
    ids=["plain", "scaffold", "local", "ditto"],
)
def test_it_is_what_the_classes_do_in_one_process(
    place: Place, tmp_path: Path, arguments: tuple[str, ...], options: dict[str, object]
) -> None:
    own = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    state = federation(place, tmp_path, *arguments, own=tuple(own))
    local = LocalTraining(
        exchange="trainable",
        scaffold="--scaffold" in arguments,
        proximal=0.1 * ("--proximal" in arguments),
    )
    reference = in_one_process(6, local, **options)
    assert "features" not in {tensor.name for tensor in state.weights.layout.tensors}
    assert list(state.fixed_state) == [FROZEN_WEIGHTS]
    for ours, theirs in zip(state.weights, reference, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("down", [(), ("--downlink", "int8")], ids=["up", "both ways"])
def test_in_few_bits_it_is_fewer_bytes_still(
    place: Place, tmp_path: Path, down: tuple[str, ...]
) -> None:
    state = federation(place, tmp_path, "--uplink", "1bit", *down)
    layout = state.weights.layout
    assert [tensor.name for tensor in layout.tensors] == ["w", "b", "seen"]
    assert state.history[0].bytes_up == 3 * size_bytes(layout, "1bit")
    assert state.history[0].raw_bytes_up == 3 * layout.size_bytes
    assert state.history[-1].metrics["loss"] < state.history[0].metrics["loss"]


def test_a_site_with_another_base_is_refused_in_one_line_and_the_others_go_on(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        for shard, user in enumerate(CLIENTS[:2]):
            started.append(start_client(place, user, "adapted", "--shard", str(shard)))
        told = ("--quorum", "2", *TRAINABLE)
        coordinator = start_coordinator(place, tmp_path / "checkpoint", *told)
        version = coordinator.wait_for("model_published")["version"]
        other = start_client(place, "charlie", "adapted", "--base", "1")
        started += [coordinator, other]
        assert other.end() == 2
        (line,) = [line for line in other.lines if not line.startswith("{")]
        assert "this site's frozen weights are not the federation's" in line
        assert "load the same pre-trained file at every site" in line
        ended = loaded(tmp_path).version
        coordinator.wait_for("model_published", version=ended + 3)
        assert version < ended
    assert "charlie" not in {name for r in loaded(tmp_path).history for name in r.clients or {}}


def test_training_that_moves_what_is_frozen_ends_the_client_with_the_reason(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        told = ("--quorum", "1", "--rounds", "2", *TRAINABLE)
        started.append(start_coordinator(place, tmp_path / "checkpoint", *told))
        client = start_client(place, "alfa", "adapted", "--spoils", "true")
        started.append(client)
        assert client.end() == 2
        assert "training changed tensor 0: features" in client.said
        started[0].wait_for("client_failed")


def test_a_killed_coordinator_goes_on_and_another_exchange_does_not(
    place: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    with workers() as started:
        for shard, user in enumerate(CLIENTS):
            started.append(start_client(place, user, "adapted", "--shard", str(shard)))
        first = start_coordinator(place, folder, "--quorum", "3", *TRAINABLE)
        started.append(first)
        first.wait_for("model_published", version=3)
        first.kill()
        version = loaded(tmp_path).version
        other = start_coordinator(place, folder, "--quorum", "3")
        started.append(other)
        assert other.end() == 2
        assert "was begun with --exchange trainable" in other.said
        told = ("--quorum", "3", "--rounds", str(version + 3), *TRAINABLE)
        started[3:] = [start_coordinator(place, folder, *told)]
        assert [worker.end() for worker in started] == [0, 0, 0, 0], started[-1].said
        state = loaded(tmp_path)
        reference = in_one_process(state.version, LocalTraining(exchange="trainable"))
        for ours, theirs in zip(state.weights, reference, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


def test_a_client_that_stays_takes_part_in_runs_of_either_kind(
    place: Place, tmp_path: Path
) -> None:
    """What a run with `all` has made of the frozen weights is not the task's base any more."""
    with workers() as started:
        for shard, user in enumerate(CLIENTS):
            started.append(start_client(place, user, "adapted", "--shard", str(shard), "--stay"))
        for name, arguments in (("1", TRAINABLE), ("2", ()), ("3", TRAINABLE)):
            told = ("--quorum", "3", "--rounds", "3", *arguments)
            run = start_coordinator(place, tmp_path / name / "checkpoint", *told)
            started.append(run)
            assert run.end() == 0, run.said
        for worker in started[:3]:
            worker.kill()
    first, second, third = (loaded(tmp_path / name) for name in "123")
    assert second.fixed_state == {}
    assert len(second.weights) == 4
    assert third.fixed_state == first.fixed_state
    for ours, theirs in zip(third.weights, first.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


def test_files_of_what_trains_begin_a_run_and_are_judged_beside_their_base(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = tmp_path / "begin.npz"
    words = ["export", "--task", TASK, "--to", str(begin), "--exchange", "trainable"]
    assert client_main(words) == 0
    program = f"{BIN / 'client-worker'} evaluate --task {TASK} --model"
    state = federation(
        place, tmp_path, "--initial-model", str(begin), "--evaluate", program,
        "--monitor", "eval_loss:min",
    )  # fmt: skip
    assert FROZEN_WEIGHTS in state.fixed_state
    judged = [record.evaluated["loss"] for record in state.history if record.evaluated]
    assert judged
    assert judged[-1] < judged[0]

    folder = str(tmp_path / "checkpoint")
    for name in ("m.safetensors", "m.npz", "best.npz"):
        file = tmp_path / name
        model = "best" if name == "best.npz" else "current"
        words = ["export", model, "--checkpoint-dir", folder, "--to", str(file)]
        assert coordinator_main(words) == 0
        found = figures(["evaluate", "--task", TASK, "--model", str(file)], capsys)
        assert found["loss"] <= judged[0]
        if model == "current":
            assert found["loss"] == pytest.approx(judged[-1])
        other = ["evaluate", "--task", TASK, "--base", "1", "--model", str(file)]
        assert client_main(other) == 2
        assert "this site's frozen weights are not the federation's" in capsys.readouterr().err

    whole = tmp_path / "whole.npz"
    words = ["export", "--task", TASK, "--model", str(tmp_path / "m.npz"), "--to", str(whole)]
    assert client_main(words) == 0
    read = weights_file.read(whole)
    assert [tensor.name for tensor in read.weights.layout.tensors] == ["features", "w", "b", "seen"]
    np.testing.assert_array_equal(read.weights[1], state.weights[0])
    np.testing.assert_array_equal(read.weights[0], tasks.Adapted().weights[0])
    refused = start_coordinator(
        place, tmp_path / "another", "--initial-model", str(whole), *TRAINABLE
    )
    assert refused.end() == 2
    assert "does not say of which frozen weights it is, as a file of a whole" in refused.said
    back = ["export", "--task", TASK, "--model", str(whole), "--to", str(tmp_path / "back.npz")]
    assert client_main([*back, "--exchange", "trainable"]) == 0
    assert weights_file.read(tmp_path / "back.npz").weights.buffer.tobytes() == (
        state.weights.buffer.tobytes()
    )
    capsys.readouterr()
    assert client_main([*back, "--exchange", "trainable", "--base", "1"]) == 2
    assert "has other frozen weights than the task" in capsys.readouterr().err


def test_a_rollback_is_published_and_trained_from(place: Place, tmp_path: Path) -> None:
    state = federation(place, tmp_path, "--keep-versions", "9")
    folder = str(tmp_path / "checkpoint")
    assert coordinator_main(["rollback", "2", "--checkpoint-dir", folder]) == 0
    back = loaded(tmp_path)
    assert (back.version, back.fixed_state) == (7, state.fixed_state)
    after = federation(place, tmp_path, rounds=11)
    reference = in_one_process(6, LocalTraining(exchange="trainable"))
    for ours, theirs in zip(after.weights, reference, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


def test_virtual_clients(wide: Place, tmp_path: Path) -> None:  # noqa: F811
    with workers() as started:
        told = ("--fleet", "phone", "--virtual", "4")
        started.append(start_client(wide, "phone", "adapted", *told))
        told = ("--quorum", "4", "--rounds", "3", *TRAINABLE)
        started.append(start_coordinator(wide, tmp_path / "checkpoint", *told))
        assert [worker.end() for worker in started] == [0, 0], started[0].said
    state = loaded(tmp_path)
    assert {record.updates for record in state.history} == {4}
    assert state.history[-1].metrics["loss"] < state.history[0].metrics["loss"]


def test_regions_pass_on_what_trains_and_the_digest_of_the_rest(tree: Tree) -> None:  # noqa: F811
    with workers() as started:
        started += tree.clients("adapted", "--shard")
        root = tree.root("--quorum", "2", "--rounds", "3", *TRAINABLE)
        regions = [tree.region(name, *TRAINABLE) for name in ("region-a", "region-b")]
        started += [root, *regions]
        assert [worker.end() for worker in started] == [0] * len(started), root.said
    state = tree.state("root")
    local = LocalTraining(exchange="trainable")
    assert state.fixed_state == tasks.adapted().client().fixed_state_for(local)
    reference = in_one_process(3, local, clients=4)
    for ours, theirs in zip(state.weights, reference, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("above", "here"), [(TRAINABLE, ()), ((), TRAINABLE)])
def test_a_region_exchanges_what_the_federation_above_does(
    tree: Tree,  # noqa: F811
    above: tuple[str, ...],
    here: tuple[str, ...],
) -> None:
    with workers() as started:
        started += tree.clients("adapted", "--shard")
        root = tree.root("--quorum", "2", "--rounds", "3", *above)
        same, other = tree.region("region-b", *above), tree.region("region-a", *here)
        started += [root, same, other]
        assert other.end() == 2
        assert "the federation above runs with --exchange" in other.said
        assert "begin a run with that of above, in another --checkpoint-dir" in other.said


def test_one_client_keeps_its_control_variate_through_a_kill(place: Place, tmp_path: Path) -> None:
    told = ("--quorum", "3", "--rounds", "6", "--scaffold", *TRAINABLE)
    with workers() as started:
        for shard, user in enumerate(CLIENTS):
            own = ("--state-dir", str(tmp_path / user), "--shard", str(shard))
            started.append(start_client(place, user, "adapted", *own))
        started.append(start_coordinator(place, tmp_path / "checkpoint", *told))
        started[0].wait_for("update_confirmed", base_version=2)
        started[0].kill()
        own = ("--state-dir", str(tmp_path / CLIENTS[0]), "--shard", "0")
        started[0] = start_client(place, CLIENTS[0], "adapted", *own)
        assert [worker.end() for worker in started] == [0, 0, 0, 0]
    reference = in_one_process(6, LocalTraining(exchange="trainable", scaffold=True))
    for ours, theirs in zip(loaded(tmp_path).weights, reference, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)
