"""Masked updates: client, coordinator and keeper as processes over a real broker."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker_config.declaration.federation import Fleet
from broker_config.node.record import Node
from coordinator_worker import cli
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from keeper_worker import keys
from tests.acceptance.test_federation import final_weights
from tests.conftest import CLIENTS, Place, new_place
from tests.support.processes import ENCRYPT, KEYS, Worker, workers

SHARDS = {user: str(number) for number, user in enumerate(CLIENTS)}
PROMISE = "correlated:epsilon=8,delta=1e-3,clip=1,contributions=9,distance=1,small=true"


class Stage:
    """A federation with a keeper; ``folder`` has the keeper's."""

    def __init__(self, place: Place, folder: Path, line: str) -> None:
        self.place, self.folder = place, folder
        self.verify, self.key = line.split(".")
        self.started: list[Worker] = []

    def keeper(self, *words: str, least: int = 3) -> Worker:
        told = ("--state-dir", str(self.folder), "--least", str(least), *words)
        return self._start("keeper-worker", "keeper", *told)

    def client(self, user: str, *words: str, task: str = "line", **extra: str) -> Worker:
        known = ENCRYPT | {"WARREN_KEEPER_KEY": self.key} | extra
        told = ("--task", f"tests.tasks:{task}", "--shard", SHARDS[user], *words)
        return self._start("client-worker", user, *told, **known)

    def clients(self, *users: str, **more: Any) -> list[Worker]:
        return [self.client(user, **more) for user in users]

    def coordinator(self, folder: Path, *words: str, **extra: str) -> Worker:
        known = {"WARREN_KEEPER_KEY": self.key, "WARREN_KEEPER_VERIFY_KEY": self.verify} | extra
        told = ("--checkpoint-dir", str(folder), *words)
        return self._start("coordinator-worker", "coordinator", *told, **known)

    def _start(self, command: str, user: str, *words: str, **extra: str) -> Worker:
        worker = Worker(command, self.place.urls[user], *words, **extra)
        self.started.append(worker)
        return worker


@pytest.fixture
def stage(node: Node, tmp_path: Path) -> Iterator[Stage]:
    folder = tmp_path / "keeper"
    folder.mkdir()
    made, _ = keys.make(folder)
    with (
        new_place(node, keeper=made.public_line, fleet=Fleet("fleet", 3)) as place,
        workers() as started,
    ):
        found = Stage(place, folder, made.public_line)
        found.started = started
        yield found


ASKED = ("--secure", "clip=50,examples=200")
THREE = CLIENTS[:3]


def ended(*some: Worker) -> None:
    codes = [one.end() for one in some]
    assert codes == [0] * len(some), [one.said[-3000:] for one in some]


def ledger(stage: Stage) -> list[dict[str, Any]]:
    lines = map(json.loads, (stage.folder / "ledger.jsonl").read_text().splitlines())
    return [line["revealed"] for line in lines if "revealed" in line]


def last_state(folder: Path) -> State:
    state = checkpoint.load(folder)
    assert state is not None
    return state


def run_in_clear(node: Node, folder: Path, rounds: int) -> State:
    with new_place(node) as place, workers() as started:
        for user in THREE:
            told = ("--task", "tests.tasks:line", "--shard", SHARDS[user])
            started.append(Worker("client-worker", place.urls[user], *told))
        told = ("--checkpoint-dir", str(folder), "--quorum", "3", "--rounds", str(rounds))
        started.append(Worker("coordinator-worker", place.urls["coordinator"], *told))
        ended(*started)
    return last_state(folder)


def test_a_masked_federation_learns_what_one_in_clear_learns(
    stage: Stage, node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.keeper()
    clients = stage.clients(*THREE)
    goal = ("--quorum", "3", "--rounds", "6")
    coordinator = stage.coordinator(tmp_path / "masked", *goal, *ASKED)
    ended(coordinator, *clients)
    clear = run_in_clear(node, tmp_path / "clear", 6)
    masked = last_state(tmp_path / "masked")
    for ours, theirs in zip(masked.weights, clear.weights, strict=True):
        assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < 1e-4
    for ours, theirs in zip(masked.history, clear.history, strict=True):
        assert ours.examples == theirs.examples == 360
        assert ours.metrics.keys() == theirs.metrics.keys() == {"loss", "eval_loss"}
        for name, value in theirs.metrics.items():
            assert ours.metrics[name] == pytest.approx(value, abs=1e-3)
        assert not ours.knows("norm"), "nobody knows it"
    assert [line["version"] for line in ledger(stage)] == [1, 2, 3, 4, 5, 6]
    assert {member.examples for member in masked.roster.values()} == {0}  # nor does anybody know
    told = shown(capsys, tmp_path / "masked")
    assert "3 clients; how many examples each has (together 360 in the last round)" in told["card"]
    assert "| client 1 | not told | not told | 6 |" in told["card"]
    assert re.search(r"alfa +in +0 +6 +– +– +0 ", told["participation"])
    assert re.search(r"^ +6 +3 .* – ", told["history"], re.MULTILINE)
    assert re.search(r"^ +6 +3 +3 +– +0 ", told["audit"], re.MULTILINE)


def shown(capsys: pytest.CaptureFixture[str], folder: Path) -> dict[str, str]:
    """What people are told of a run, by command."""
    found = {}
    for command in ("card", "participation", "history", "audit"):
        capsys.readouterr()
        assert cli.main([command, "--checkpoint-dir", str(folder)]) == 0
        found[command] = capsys.readouterr().out
    return found


def test_half_as_many_bytes_and_coarser_steps(stage: Stage, node: Node, tmp_path: Path) -> None:
    stage.keeper()
    stage.clients(*THREE)
    told = ("--secure", "clip=8,examples=200,ring=16", "--quorum", "3", "--rounds", "20")
    ended(stage.coordinator(tmp_path / "masked", *told))
    clear = run_in_clear(node, tmp_path / "clear", 20)
    for ours, theirs in zip(final_weights(tmp_path / "masked"), clear.weights, strict=True):
        assert np.abs(ours - np.asarray(theirs)).max() < 0.2


def test_late_updates_downlink_and_stopping_by_a_metric(stage: Stage, tmp_path: Path) -> None:
    stage.keeper()
    stage.clients("alfa", "bravo", "charlie")
    told = ("--quorum", "3", "--max-staleness", "3", "--staleness-exponent", "1", *ASKED)
    more = ("--downlink", "1bit", "--target", "eval_loss<=0.5", "--rounds", "200")
    coordinator = stage.coordinator(tmp_path / "run", *told, *more)
    ended(coordinator)
    state = last_state(tmp_path / "run")
    assert state.history[-1].metrics["eval_loss"] <= 0.5 or state.version < 200


def test_a_round_waits_for_its_keeper_and_goes_on(stage: Stage, tmp_path: Path) -> None:
    stage.clients(*THREE)
    told = ("--quorum", "3", "--rounds", "3", *ASKED)
    coordinator = stage.coordinator(tmp_path / "run", *told)
    coordinator.wait_for("keeper_missing", within_s=60.0)
    stage.keeper()
    coordinator.wait_for("keeper_answered")
    ended(coordinator)
    assert len(ledger(stage)) == 3


IMPATIENT = """#!{python}
from coordinator_worker import cli
from coordinator_worker.runtime import keeper_link
keeper_link.AGAIN_S = 2.0
raise SystemExit(cli.main())
"""


def test_a_request_that_the_broker_has_lost_is_made_again_and_answered_once(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(IMPATIENT, tmp_path, monkeypatch)
    stage.clients(*THREE)
    coordinator = stage.coordinator(tmp_path / "run", "--quorum", "3", "--rounds", "3", *ASKED)
    coordinator.wait_for("keeper_missing", within_s=60.0)
    stage.place.management.delete("queues", stage.place.name, "unmask", "contents")
    keeper = stage.keeper()
    ended(coordinator)
    assert [line["version"] for line in ledger(stage)] == [1, 2, 3]
    assert "once more" not in keeper.said


def program(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinators are ``text`` from now on."""
    path = folder / "program"
    path.write_text(text.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("TEST_COORDINATOR_WORKER", str(path))


BEFORE_ITS_CHECKPOINT = """#!{python}
import threading
from coordinator_worker import cli
from coordinator_worker.storage import checkpoint
save = checkpoint.Checkpoint.save
def stuck(self, state):
    if state.version == 2:
        threading.Event().wait()
    save(self, state)
checkpoint.Checkpoint.save = stuck
raise SystemExit(cli.main())
"""
BEFORE_IT_READS_THE_SUM = """#!{python}
import threading
from coordinator_worker import cli
from coordinator_worker.runtime.keeper_link import KeeperLink
read = KeeperLink._read
def stuck(self, item):
    told, data = read(self, item)
    if getattr(told, "version", 0) == 2:
        threading.Event().wait()
    return told, data
KeeperLink._read = stuck
raise SystemExit(cli.main())
"""


@pytest.mark.parametrize("ends", [BEFORE_ITS_CHECKPOINT, BEFORE_IT_READS_THE_SUM])
def test_of_a_sum_that_was_given_just_that_set_is_made_whoever_else_has_come(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The coordinator ends too early; the next one wants a larger round.

    What the keeper said to the first is still in the queue, or not.
    """
    usual = os.environ.get("TEST_COORDINATOR_WORKER", "")
    program(ends, tmp_path, monkeypatch)
    keeper = stage.keeper()
    told = ("--rounds", "4", "--max-staleness", "5", *ASKED)
    first = stage.coordinator(tmp_path / "run", "--quorum", "3", *told)
    clients = stage.clients(*THREE)
    keeper.wait_for("sum_given", version=2)
    delta = stage.client("delta")
    delta.wait_for("update_confirmed")
    first.kill()
    if usual:
        monkeypatch.setenv("TEST_COORDINATOR_WORKER", usual)
    else:
        monkeypatch.delenv("TEST_COORDINATOR_WORKER")
    again = stage.coordinator(tmp_path / "run", "--quorum", "4", *told)
    refused = again.wait_for("keeper_refused")
    assert refused["reason"] == "version"
    ended(again, *clients, delta)
    sets = ledger(stage)
    assert [line["version"] for line in sets] == [1, 2, 3, 4]
    assert [len(line["updates"]) for line in sets] == [3, 3, 4, 4]
    spent = [row[2] for line in sets for row in line["updates"]]
    assert len(spent) == len(set(spent))
    state = last_state(tmp_path / "run")
    assert [record.updates for record in state.history] == [3, 3, 4, 4]
    assert all(record.metrics["loss"] < 100 for record in state.history)
    assert not any(record.diverged for record in state.history)


HASTY = """#!{python}
from coordinator_worker import cli
from coordinator_worker.monitoring import waiting
from coordinator_worker.runtime import worker
waiting.FIRST_S = worker.TICK_S = 1.0
raise SystemExit(cli.main())
"""


def test_a_set_that_was_given_and_is_lost_is_named_with_the_way_on(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(BEFORE_ITS_CHECKPOINT, tmp_path, monkeypatch)
    keeper = stage.keeper()
    told = ("--quorum", "3", "--rounds", "4", *ASKED)
    first = stage.coordinator(tmp_path / "run", *told)
    clients = stage.clients(*THREE)
    keeper.wait_for("sum_given", version=2)
    first.kill()
    stage.place.management.delete("queues", stage.place.name, "update", "contents")
    program(HASTY, tmp_path, monkeypatch)
    again = stage.coordinator(tmp_path / "run", *told)
    again.wait_for("keeper_refused", reason="version")
    waits = again.wait_for("round_waiting")
    way = "`coordinator-worker rollback current --after 2`"
    assert "the keeper gave the sum of 3 updates for version 2, and 3 of them" in waits["message"]
    assert way in waits["message"]
    again.kill(signal.SIGTERM)
    run = ["--checkpoint-dir", str(tmp_path / "run")]
    assert cli.main(["rollback", "current", "--after", "2", *run]) == 0
    ended(stage.coordinator(tmp_path / "run", *told), *clients)
    assert [line["version"] for line in ledger(stage)] == [1, 2, 4]


def test_clients_refuse_what_they_were_not_enrolled_for(stage: Stage, tmp_path: Path) -> None:
    clear = stage.coordinator(
        tmp_path / "clear", "--quorum", "3", WARREN_KEEPER_KEY="", WARREN_KEEPER_VERIFY_KEY=""
    )
    client = stage.client("alfa")
    assert client.end() == 2
    assert "asks for them in clear: start it with --secure" in client.said
    clear.wait_for("client_failed")
    clear.kill(signal.SIGTERM)
    masked = stage.coordinator(tmp_path / "masked", "--quorum", "3", *ASKED)
    masked.wait_for("connected")
    for extra, words in (
        ({"WARREN_LEAST_TOGETHER": "4"}, "this one wants 4 or more"),
        ({"WARREN_KEEPER_KEY": stage.verify}, "ask which one is right"),
        ({"WARREN_KEEPER_KEY": ""}, "names no keeper"),
        ({"WARREN_ENCRYPT_KEY": ""}, "need the coordinator's keys"),
    ):
        client = stage.client("bravo", **extra)
        assert client.end() == 2, client.said
        assert words in client.said


def test_a_run_that_began_in_clear_goes_on_masked_and_back(stage: Stage, tmp_path: Path) -> None:
    """With the bundles of a federation that has a keeper, and of one that has none."""
    none = {"WARREN_KEEPER_KEY": "", "WARREN_KEEPER_VERIFY_KEY": ""}
    stage.keeper()
    for rounds, words, extra in ((2, (), none), (4, ASKED, {}), (6, (), none)):
        clients = stage.clients(*THREE, **extra)
        goal = ("--quorum", "3", "--rounds", str(rounds), *words)
        ended(stage.coordinator(tmp_path / "run", *goal, **extra), *clients)
    history = last_state(tmp_path / "run").history
    assert [record.norm > 0 for record in history] == [True, True, False, False, True, True]
    losses = [record.metrics["loss"] for record in history]
    assert losses == sorted(losses, reverse=True)


def test_a_coordinator_says_what_it_needs(stage: Stage, tmp_path: Path) -> None:
    for words, extra, said in (
        ((), {}, "this federation has a keeper"),
        (ASKED, {"WARREN_KEEPER_KEY": ""}, "the bundle names none"),
        (("--secure", "clip=1"), {}, "add examples=N"),
        ((*ASKED, "--aggregator", "krum:f=1"), {}, "compares single updates"),
    ):
        one = stage.coordinator(tmp_path / "run", "--quorum", "3", *words, **extra)
        assert one.end() == 2, one.said
        assert said in one.said


def test_a_client_that_was_killed_sends_the_same_masked_update(
    stage: Stage, tmp_path: Path
) -> None:
    """It is kept with its seed, and both go again under their ids."""
    stage.keeper()
    stage.clients("bravo", "charlie")
    coordinator = stage.coordinator(tmp_path / "run", "--quorum", "3", "--rounds", "3", *ASKED)
    kept = tmp_path / "kept"
    client = stage.client("alfa", "--state-dir", str(kept))
    for _ in range(3):
        if coordinator.process.poll() is not None:
            break
        client.wait_for("training")
        client.kill()
        client = stage.client("alfa", "--state-dir", str(kept))
    ended(coordinator)
    assert len(ledger(stage)) == 3


def initial(folder: Path) -> str:
    path = folder / "initial.npz"
    np.savez(path, np.zeros((4, 1)), np.zeros(1))
    return str(path)


def test_with_privacy_the_keeper_adds_the_noise(stage: Stage, tmp_path: Path) -> None:
    rules = ("--privacy", PROMISE, "--rounds", "4", "--quorum", "3")
    stage.keeper(*rules)
    clients = stage.clients(*THREE)
    begun = ("--initial-model", initial(tmp_path), "--secure", "clip=1")
    coordinator = stage.coordinator(tmp_path / "run", *rules, *begun)
    ended(coordinator, *clients)
    state = last_state(tmp_path / "run")
    assert state.privacy is not None
    assert state.privacy.done == 4
    spent = [record.privacy.epsilon for record in state.history if record.privacy is not None]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(8, abs=0.01)
    assert "noise" not in state.slots
    weights = np.concatenate([np.ravel(part) for part in state.weights])
    assert 0.01 < np.abs(weights).max() < 1e3  # it moved, by noise mostly
    assert all(not record.metrics for record in state.history)
    assert all(line["noise"] for line in ledger(stage))


def test_a_keeper_without_the_noise_that_was_promised_gives_nothing(
    stage: Stage, tmp_path: Path
) -> None:
    stage.keeper()
    stage.clients(*THREE)
    rules = ("--privacy", PROMISE, "--rounds", "4", "--quorum", "3")
    begun = ("--initial-model", initial(tmp_path), "--secure", "clip=1")
    coordinator = stage.coordinator(tmp_path / "run", *rules, *begun)
    assert coordinator.end() == 2, coordinator.said
    assert "the keeper refuses: clients were promised noise" in coordinator.said
    assert not ledger(stage)


def test_a_fleet_is_one_user(stage: Stage, tmp_path: Path) -> None:
    """Its three replicas do not make a sum; with two sites beside it there is one."""
    stage.keeper()
    coordinator = stage.coordinator(tmp_path / "run", "--quorum", "3", "--rounds", "1", *ASKED)
    told = ("--task", "tests.tasks:line", "--fleet", "fleet", "--virtual", "3")
    known = ENCRYPT | {"WARREN_KEEPER_KEY": stage.key}
    stage._start("client-worker", "fleet", *told, **known)
    for _ in range(3):
        coordinator.wait_for("update_accepted")
    with pytest.raises(AssertionError, match="no model_published"):
        coordinator.wait_for("model_published", within_s=3.0, version=1)
    stage.clients("alfa", "bravo")
    ended(coordinator)
    (given,) = ledger(stage)
    assert len({row[0].partition(".")[0] for row in given["updates"]}) == 3


def test_a_region_masks_its_clients_and_sends_its_sum_up(
    stage: Stage, node: Node, tmp_path: Path
) -> None:
    stage.keeper()
    stage.clients(*THREE)
    with new_place(node, ("north",)) as above:
        bundle = tmp_path / "north.env"
        verify = KEYS["client-worker"]["WARREN_VERIFY_KEYS"]
        bundle.write_text(
            f"WARREN_BROKER_URL={above.urls['north']}\nWARREN_CLIENT=north\n"
            f"WARREN_VERIFY_KEYS={verify}\n"
        )
        region = stage.coordinator(
            tmp_path / "region", "--parent", str(bundle), "--quorum", "3", *ASKED
        )
        told = ("--checkpoint-dir", str(tmp_path / "root"), "--quorum", "1", "--rounds", "4")
        root = Worker("coordinator-worker", above.urls["coordinator"], *told)
        stage.started.append(root)
        ended(root, region)
    clear = run_in_clear(node, tmp_path / "clear", 4)
    state = last_state(tmp_path / "root")
    assert [record.examples for record in state.history] == [360] * 4
    assert "eval_loss" in state.history[-1].metrics
    for ours, theirs in zip(state.weights, clear.weights, strict=True):
        assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < 1e-3
