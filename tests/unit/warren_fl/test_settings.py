"""Clients and settings that are given from Python: one line says what is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_worker import Task
from coordinator_worker.settings import CoordinatorSettings
from tests.tasks import line
from warren_fl import Federation
from warren_fl.settings import check, sites, task_words, words
from warren_shared.config import settings
from warren_shared.errors import ConfigError

LINE = "tests.tasks:line"


def test_a_number_of_clients_are_slots_of_a_fleet() -> None:
    found = sites(LINE, 3)
    assert [site.name for site in found] == ["client.0", "client.1", "client.2"]
    assert [site.place for site in found] == [0, 1, 2]
    assert {site.task for site in found} == {LINE}
    assert sites(None, 0) == []


def test_clients_bring_tasks_or_arguments() -> None:
    found = sites(LINE, [{"shard": 3}, "tests.tasks:other", None])
    assert [(site.name, site.task, dict(site.arguments)) for site in found] == [
        ("client-0", LINE, {"shard": 3}), ("client-1", "tests.tasks:other", {}),
        ("client-2", LINE, {}),
    ]  # fmt: skip
    named = sites(LINE, {"berlin": {"shard": 1}, "paris": line})
    assert [(site.name, site.task) for site in named] == [("berlin", LINE), ("paris", line)]


@pytest.mark.parametrize(
    ("task", "clients", "said"),
    [
        (None, 2, "task: what to train"),
        (7, 2, "int is no import path"),
        (LINE, -1, "0 or more"),
        (LINE, True, "a number, or a mapping"),
        (LINE, "abc", "a string is no sequence"),
        (LINE, 2.5, "a number, or a mapping"),
        (LINE, [7], "clients: client-0: int is no import path"),
        (None, [{"shard": 1}], "task: what to train"),
    ],
)
def test_clients_that_are_none_are_refused(task: Any, clients: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sites(task, clients)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"qourum": 3}, "takes no qourum: did you mean quorum"),
        ({"broker_url": "amqp://x"}, "takes no broker_url"),
        ({"signing_keys": "x"}, "takes no signing_keys"),
        ({"quorum": 0}, "--quorum"),
        ({"quorum": "many"}, "--quorum many: write a whole number"),
        ({"quorum": 9}, "--quorum 9 needs 9 clients and the federation has 4"),
        ({"participation": 0.5}, "needs --deadline-s"),
        ({"aggregator": "medain"}, "did you mean median"),
        ({"server_optimizer": "adam:lr=1"}, "adam takes"),
        (
            {"privacy": "correlated:epsilon=1,delta=1e-5,clip=1", "rounds": 3},
            "--privacy needs --initial-model",
        ),
        ({"secure": "clip=1"}, "secure needs a keeper"),
        ({"target": "auc"}, "--target"),
    ],
)
def test_a_setting_that_is_wrong_is_refused_in_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Federation(LINE, clients=4, **given)
    assert "\n" not in str(caught.value)


def test_a_private_run_is_checked_when_it_is_known_how_many_rounds_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "initial.npz", np.zeros(3, np.float32))
    given = {
        "privacy": "correlated:epsilon=1,delta=1e-5,clip=1,small=true",
        "initial_model": tmp_path / "initial.npz",
    }
    Federation(LINE, clients=2, quorum=2, **given)
    with pytest.raises(ConfigError, match="--privacy: 10 rounds of 2 updates"):
        Federation(LINE, clients=2, quorum=2, **given).run(rounds=10)


def test_without_a_quorum_a_round_takes_an_update_of_each_client() -> None:
    assert check({}, 4, 4, has_bundle=False)["quorum"] == 4
    assert check({"quorum": 3}, 4, 4, has_bundle=False)["quorum"] == 3
    assert "quorum" not in check({}, 0, None, has_bundle=True)


def test_what_is_given_from_python_is_what_the_command_line_reads() -> None:
    given = check(
        {
            "quorum": 3, "scaffold": True, "config": {"seed": 7, "fast": False, "name": "a=b"},
            "target": "eval_loss<=0.1", "initial_model": Path("a b.npz"), "clip_norm": 1.5,
            "deadline_s": None, "max_staleness": 2,
        },
        4, 4, has_bundle=False,
    )  # fmt: skip
    argv = ["--broker-url=amqp://coordinator@localhost/f", *words(CoordinatorSettings, given)]
    found, rest = settings.load(CoordinatorSettings, description="", argv=argv)
    assert rest == []
    assert found.config == ("seed=7", "fast=false", "name=a=b")
    assert (found.quorum, found.scaffold, found.clip_norm) == (3, True, 1.5)
    assert found.initial_model == Path("a b.npz")
    assert found.deadline_s is None
    assert found.metrics_port == 0
    assert "--no-scaffold" in words(CoordinatorSettings, {"scaffold": False})
    assert task_words({"data_file": "-x", "fast": True}) == ["--data-file=-x", "--fast=true"]


def test_a_task_of_this_process_is_refused_in_others() -> None:
    def mine() -> Task:
        raise AssertionError("nobody calls it")

    with pytest.raises(ConfigError, match=r"the task .*mine exists in this process only"):
        Federation(mine, clients=2)
    with pytest.raises(ConfigError, match="the task Task exists in this process only"):
        Federation(clients=[line()])
    Federation(mine, clients=2, workers="threads")


def test_what_is_no_listener_folder_or_kind_of_worker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="on_event: int is no function"):
        Federation(LINE, on_event=[7])
    with pytest.raises(ConfigError, match=r"holds no coordinator\.env"):
        Federation(LINE, broker=tmp_path)
    with pytest.raises(ConfigError, match='workers=\'fibres\': "processes" or "threads"'):
        Federation(LINE, workers="fibres")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing else ends it"):
        Federation(LINE).run()
    with pytest.raises(ConfigError, match=r"start\(\) needs a block"):
        Federation(LINE).start(rounds=1)
