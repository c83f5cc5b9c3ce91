"""The settings file: one TOML for both workers, and one line for what is wrong in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from client_worker.evaluate import EvaluateSettings
from client_worker.settings import ClientSettings
from client_worker.tasks.task import TaskSource
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.terminal.participation import ReportSettings
from warren_shared.config.settings import WorkerSettings, load
from warren_shared.errors import ConfigError

URL = "amqp://alfa:secret@127.0.0.1:5672/f"

BOTH = f"""
broker-url = "{URL}"
wait_broker_s = 60

[coordinator]
quorum = 3
max-staleness = 2
config = ["seed=7", "deep=true"]
scaffold = true

[client]
state-dir = "/var/lib/warren"

[client.task]
task = "tests.tasks:line"
shard = 2
learning-rate = 0.5
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    for name in ("WARREN_QUORUM", "WARREN_BROKER_URL", "WARREN_ENV_FILE", "WARREN_SETTINGS"):
        monkeypatch.delenv(name, raising=False)

    def written(text: str) -> Path:
        path = tmp_path / "warren.toml"
        path.write_text(text)
        return path

    return written


def coordinator(path: Path, *argv: str) -> CoordinatorSettings:
    words = ["--settings", str(path), *argv]
    return load(CoordinatorSettings, description="", argv=words)[0]


def client(path: Path, *argv: str) -> tuple[ClientSettings, list[str]]:
    words = ["--settings", str(path), *argv]
    return load(ClientSettings, description="", argv=words, keep_unknown=True)


def test_both_workers_read_one_file(write: Write) -> None:
    path = write(BOTH)
    found = coordinator(path)
    assert (found.quorum, found.max_staleness, found.scaffold) == (3, 2, True)
    assert found.config == ("seed=7", "deep=true")
    given, rest = client(path)
    assert (given.task, given.state_dir) == ("tests.tasks:line", Path("/var/lib/warren"))
    assert rest == ["--shard=2", "--learning-rate=0.5"]
    for settings in (found, given):
        assert (settings.broker_url, settings.wait_broker_s) == (URL, 60)


def test_each_source_goes_before_the_next(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("[coordinator]\nquorum = 3\n")
    bundle = tmp_path / "bundle.env"
    bundle.write_text(f"WARREN_BROKER_URL={URL}\n")
    file = ("--env-file", str(bundle))
    assert coordinator(path, *file).quorum == 3
    bundle.write_text(f"WARREN_BROKER_URL={URL}\nWARREN_QUORUM=4\n")
    assert coordinator(path, *file).quorum == 4
    monkeypatch.setenv("WARREN_QUORUM", "5")
    assert coordinator(path, *file).quorum == 5
    assert coordinator(path, *file, "--quorum", "6").quorum == 6


def test_the_file_may_be_named_in_the_environment_and_may_name_the_bundle(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "alfa.env"
    bundle.write_text(f"WARREN_BROKER_URL={URL}\n")
    path = write(f'[coordinator]\nenv-file = "{bundle}"\nquorum = 9\n')
    monkeypatch.setenv("WARREN_SETTINGS", str(path))
    found, _ = load(CoordinatorSettings, description="", argv=[])
    assert (found.user, found.quorum) == ("alfa", 9)


def test_the_federations_config_is_no_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARREN_CONFIG", "seed=7")
    assert coordinator(write(BOTH)).config == ("seed=7",)


def test_the_command_line_goes_before_the_tasks_arguments_in_the_file(write: Write) -> None:
    given, rest = client(write(BOTH), "--shard", "1")
    source = TaskSource(given.task, rest)
    assert source.arguments({"shard": 9}) == {"shard": 1, "learning_rate": 0.5}


def test_truths_reach_a_task_as_it_would_be_told_them_on_the_command_line(write: Write) -> None:
    _, rest = client(write(BOTH + "deep = true\n"))
    assert rest[-1] == "--deep=true"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[coordinator]\nqorum = 3", "[coordinator] qorum is no setting: did you mean quorum?"),
        ("[coordinator]\nzzz = 3", "[coordinator] zzz is no setting: see --help"),
        ("wait-broker = 3", "wait-broker is no setting: did you mean wait-broker-s?"),
        ("quorum = 3", "quorum belongs into [coordinator]: all workers are told"),
        ("[coordinater]\nquorum = 3", "coordinater is no setting"),
        ("[coordinator]\nquorum = 0", "[coordinator] quorum 0: the least is 1"),
        ('[coordinator]\nquorum = "many"', "[coordinator] quorum many: write a whole number"),
        ("[coordinator]\nquorum = true", "[coordinator] quorum: true and false are no values"),
        ("[coordinator]\nquorum = [1]", "[coordinator] quorum [1]: write a whole number"),
        ("wait-broker-s = -1", "wait-broker-s -1: the least is 0"),
        (
            "[coordinator]\nmax-staleness = 1\nmax_staleness = 2",
            "[coordinator] max-staleness is there twice, with - and with _: keep one",
        ),
        ("coordinator = 3", "coordinator is a section: write [coordinator]"),
        ("quorum = ", "is not TOML: "),
    ],
)
def test_what_is_wrong_is_one_line_that_names_file_and_key(
    write: Write, text: str, said: str
) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        coordinator(path, "--broker-url", URL)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_key_of_the_client_that_there_is_not_is_the_clients_to_refuse(write: Write) -> None:
    path = write('[client]\nflet = "phone"')
    assert coordinator(path, "--broker-url", URL).quorum == 2
    with pytest.raises(ConfigError, match=r"\[client\] flet is no setting: did you mean fleet\?"):
        client(path, "--broker-url", URL, "--task", "a:b")


def test_an_argument_that_no_command_line_could_say_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"\[client.task\] data: a task's argument is text"):
        client(write("[client.task]\ndata = [1]"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        coordinator(tmp_path / "none.toml")


def test_a_wrong_value_that_the_command_line_overrides_does_no_harm(write: Write) -> None:
    path = write("[coordinator]\nquorum = 0")
    assert coordinator(path, "--broker-url", URL, "--quorum", "2").quorum == 2
    with pytest.raises(ConfigError, match=r"^--quorum 0: the least"):
        coordinator(write("[coordinator]\nquorum = 2"), "--broker-url", URL, "--quorum", "0")


def test_commands_that_are_told_less_pass_over_the_rest(write: Write) -> None:
    words = ["--settings", str(write(BOTH + "\n[coordinator.x]\ny = 1\n"))]
    assert load(WorkerSettings, description="", argv=words)[0].broker_url == URL
    report, _ = load(ReportSettings, description="", argv=words)
    assert report.checkpoint_dir == Path("checkpoint")
    evaluate, rest = load(
        EvaluateSettings, description="", argv=[*words, "--model", "m"], keep_unknown=True
    )
    assert (evaluate.task, rest[0]) == ("tests.tasks:line", "--shard=2")


def test_a_misspelt_argument_of_a_task_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown argument --shrad: did you mean --shard\?"):
        TaskSource("tests.tasks:line", ["--shrad=1"])
    with pytest.raises(ConfigError, match=r"did you mean --wait-broker-s\? the task"):
        TaskSource("tests.tasks:line", ["--wait-broker=1"])
