"""`Federation`: the workers of the command line from Python, which leaves nothing behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from client_worker import Task
from coordinator_worker.monitoring import events
from coordinator_worker.storage import checkpoint
from tests.conftest import CLIENTS, FLEET, Place
from tests.support.leftovers import assert_nothing_left, nothing_changed, ports_of, processes_of
from tests.support.pace import DEADLINE_S
from tests.support.processes import ROOT, Worker
from tests.tasks import line
from warren_fl import Federation, FederationFailed
from warren_shared.errors import ConfigError

LINE = "tests.tasks:line"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module of a user's; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(text: str) -> str:
        name = f"of_a_user_{abs(hash((str(tmp_path), text)))}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return name

    return written


@pytest.fixture(scope="module")
def lines() -> Iterator[Federation]:
    """Four clients with a task of numpy, for tests that only look at what a run gives."""
    with Federation(LINE, clients=4, progress=False) as federation:
        yield federation


def test_a_run_gives_the_model_that_the_command_line_gives(
    place: Place, tmp_path: Path, lines: Federation
) -> None:
    options = ("--server-optimizer", "momentum:learning_rate=0.5", "--rounds", "6")
    coordinator = Worker(
        "coordinator-worker", place.urls["coordinator"], "--quorum", "4", *options,
        "--checkpoint-dir", str(tmp_path), "--metrics-port", "0",
    )  # fmt: skip
    clients = [
        Worker(
            "client-worker", place.urls[name], "--client", name, "--task", LINE, "--shard", str(n)
        )
        for n, name in enumerate(CLIENTS)
    ]
    assert [worker.end() for worker in [coordinator, *clients]] == [0] * 5
    state = checkpoint.load(tmp_path)
    assert state is not None

    with Federation(
        LINE, clients=4, server_optimizer="momentum:learning_rate=0.5", progress=False
    ) as federation:
        result = federation.run(rounds=6)
    assert result.version == state.version == 6
    assert list(result.weights) == ["0", "1"]
    for found, expected in zip(result.weights.values(), state.weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.abs(result.weights["0"]).max() > 0.1


def test_a_result_has_a_table_a_report_a_curve_and_the_weights(lines: Federation) -> None:
    result = lines.run(rounds=3)
    assert [row["version"] for row in result.history] == [0, 1, 2, 3]
    assert result.history[-1]["updates"] == 4
    assert result.history[3]["metric/eval_loss"] < result.history[0]["metric/eval_loss"]
    assert result.report.startswith("3 rounds, 12 updates, ")
    assert "It ended: --rounds 3 are made." in result.report
    assert result.bytes_up > 0
    assert result.bytes_down > 0
    assert "<polyline" in result.plot("loss").svg()
    assert "3 rounds" in result._repr_html_()
    assert result.model is result.weights  # its task has no Keras model
    with pytest.raises(ConfigError, match="no round has a metric auc; there are eval_loss, loss"):
        result.plot("auc")


def test_each_run_begins_anew_and_may_be_followed_event_by_event(lines: Federation) -> None:
    run = lines.start(rounds=2)
    seen = list(run)
    closed = [event.record.version for event in seen if isinstance(event, events.RoundClosed)]
    assert closed == [1, 2]
    accepted = {event.client for event in seen if isinstance(event, events.UpdateAccepted)}
    assert accepted == {f"client.{number}" for number in range(4)}
    assert any(isinstance(event, events.FederationFinished) for event in seen)
    assert isinstance(seen[-1], events.CoordinatorStopped)
    assert run.result().version == 2


def test_one_who_leaves_the_loop_may_come_back_or_stop_the_run(lines: Federation) -> None:
    run = lines.start(rounds=100_000)
    for event in run:
        if isinstance(event, events.RoundClosed):
            break
    with pytest.raises(ConfigError, match="a run is under way"):
        lines.run(rounds=1)
    run.stop()
    result = run.result()
    assert 1 <= result.version < 100_000
    assert "It ended: it was stopped." in result.report
    assert lines.run(rounds=1).version == 1


def test_callbacks_and_listeners_hear_each_event_in_the_callers_thread() -> None:
    heard: list[tuple[str, int]] = []

    class Mine:
        def on_event(self, event: events.Event) -> None:
            heard.append((type(event).__name__, threading.get_ident()))

        def close(self) -> None:
            raise AssertionError("nobody closes a listener that is the user's")

    functions: list[events.Event] = []
    Federation(LINE, clients=2, progress=False, on_event=[Mine(), functions.append]).run(rounds=2)
    names = [name for name, _ in heard]
    assert names.count("RoundClosed") == 2
    assert len(functions) == len(heard)
    assert {thread for _, thread in heard} == {threading.get_ident()}


@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_nothing_of_this_process_is_changed_and_nothing_is_left(workers: Any) -> None:
    line()  # imports, once
    with nothing_changed():
        with Federation(LINE, clients=2, workers=workers, progress=False) as federation:
            federation.run(rounds=1)
            folder, ports = federation.folder, ports_of(federation.folder)
            pids = [process.pid for process in processes_of(folder)]
            assert pids
        assert_nothing_left(folder, ports, pids, within_s=1)


def test_a_notebooks_own_function_is_a_task_on_threads_and_refused_in_processes() -> None:
    def site(shard: int = 0, features: int = 2) -> Task:
        return line(shard, features)

    result = Federation(
        site, clients=3, workers="threads", config={"features": 5}, progress=False
    ).run(rounds=2)
    assert result.weights["0"].shape == (5, 1)
    with pytest.raises(ConfigError, match=r"put it in a module.*workers=\"threads\""):
        Federation(site, clients=3)
    each = [line(0), line(1)]
    assert Federation(clients=each, workers="threads", progress=False).run(rounds=1).version == 1


def test_clients_may_have_names_and_arguments_of_their_own() -> None:
    sites = {"berlin": {"shard": 3}, "paris": {"shard": 5}}
    result = Federation(LINE, clients=sites, progress=False).run(rounds=1)
    assert set(result.state.roster) == {"berlin", "paris"}
    assert result.state.roster["berlin"].examples == 160  # 100 + 20 * shard
    assert result.state.roster["paris"].examples == 200


def test_an_exception_in_the_block_ends_everything() -> None:
    seen: list[Any] = []

    def block() -> None:
        with Federation(LINE, clients=2, progress=False) as federation:
            federation.start(rounds=100_000)
            folder = federation.folder
            seen.extend([folder, ports_of(folder), [p.pid for p in processes_of(folder)]])
            raise KeyError("the user's own")

    with nothing_changed(), pytest.raises(KeyError, match="the user's own"):
        block()
    assert_nothing_left(*seen, within_s=1)


def test_what_a_callback_raises_comes_out_of_run_and_ends_everything() -> None:
    def failing(event: events.Event) -> None:
        if getattr(event, "TOPIC", "") == "round.closed":
            raise LookupError("no more of this")

    federation = Federation(LINE, clients=2, on_event=failing, progress=False)
    with nothing_changed(), pytest.raises(LookupError, match="no more of this"):
        federation.run(rounds=100_000)
    assert not federation.folder.exists()


SCRIPT = """
    import sys
    from warren_fl import Federation
    options = dict(clients=2, workers="{workers}", progress=False)
    with Federation("tests.tasks:line", **options) as federation:
        for event in federation.start(rounds=100_000_000):
            if type(event).__name__ == "RoundClosed" and event.record.version == 3:
                print(federation.folder, flush=True)
"""


@pytest.mark.parametrize("workers", ["processes", "threads"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_neither_ctrl_c_nor_a_kill_leaves_anything(workers: str, number: signal.Signals) -> None:
    script = textwrap.dedent(SCRIPT.format(workers=workers))
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        ports, pids = ports_of(folder), [each.pid for each in processes_of(folder)]
        pids += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(pids) >= 4
        try:
            process.send_signal(number)
            _, error = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    if number is signal.SIGINT:
        assert process.returncode == -signal.SIGINT
        assert error.rstrip().endswith("KeyboardInterrupt")
    assert_nothing_left(folder, ports, pids, within_s=1 if number is signal.SIGINT else DEADLINE_S)


@pytest.mark.parametrize("workers", ["processes", "threads"])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no such column: age')", "no such column: age"),
        (
            """
            class Fails:
                def get_weights(self): return [np.zeros(2)]
                def set_weights(self, weights): pass
                def fit(self, data, rate): raise ArithmeticError("the site's own reason")
            return Task(Fails(), (np.zeros(3), np.zeros(3)))
            """,
            "ArithmeticError: the site's own reason",
        ),
    ],
    ids=["making", "training"],
)
def test_a_client_that_fails_says_why(
    body: str, said: str, workers: Any, module: Callable[[str], str]
) -> None:
    body = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    name = module(f"import numpy as np\nfrom client_worker import Task\ndef site():\n{body}\n")
    federation = Federation(f"{name}:site", clients=2, workers=workers, progress=False)
    with nothing_changed(), pytest.raises(FederationFailed, match=said) as caught:
        federation.run(rounds=3)
    assert "\n" not in str(caught.value)
    assert not federation.folder.exists()


def test_one_failing_client_of_three_does_not_end_a_run_that_needs_two(
    module: Callable[[str], str],
) -> None:
    name = module(
        """
        from tests.tasks import line
        def site(shard=0):
            if shard == 1:
                raise ValueError("not here")
            return line(shard)
        """
    )
    failed: list[str] = []

    def hear(event: events.Event) -> None:
        if isinstance(event, events.RoundClosed):
            failed.append(str(event.record.updates))

    result = Federation(f"{name}:site", clients=3, quorum=2, on_event=hear, progress=False).run(4)
    assert result.version == 4
    assert failed == ["2"] * 4


def test_a_run_of_which_everything_is_rejected_ends_with_the_reason(
    module: Callable[[str], str],
) -> None:
    """It waited for ever, and said nothing outside a terminal."""
    name = module(
        """
        import numpy as np
        from client_worker import Task
        def site():
            class Diverges:
                weights = [np.zeros(2)]
                def get_weights(self): return self.weights
                def set_weights(self, weights): self.weights = weights
                def fit(self, data, rate): self.weights = [np.full(2, 1e30)]
            return Task(Diverges(), (np.zeros(3), np.zeros(3)))
        """
    )
    federation = Federation(
        f"{name}:site", clients=2, max_update_norm="1", deadline_s=None, progress=False
    )
    with nothing_changed(), pytest.raises(FederationFailed, match="what every client sent") as why:
        federation.run(rounds=3)
    assert "--max-update-norm" in str(why.value)


def test_a_coordinator_that_is_killed_is_told_of() -> None:
    with Federation(LINE, clients=2, progress=False) as federation:
        run = federation.start(rounds=100_000)
        next(run)
        run._coordinator._process.kill()
        with pytest.raises(FederationFailed, match="the coordinator: it was ended by SIGKILL"):
            run.result()
        assert federation.run(rounds=1).version == 1  # the clients wait for the next one


def test_two_federations_run_one_after_another_and_at_the_same_time() -> None:
    first = Federation(LINE, clients=2, progress=False)
    second = Federation(LINE, clients=3, workers="threads", progress=False)
    with nothing_changed(), first, second:
        one, two = first.start(rounds=3), second.start(rounds=4)
        assert (two.result().version, one.result().version) == (4, 3)
        assert first.folder != second.folder
    assert Federation(LINE, clients=2, progress=False).run(rounds=1).version == 1
    with pytest.raises(ConfigError, match="this federation has ended"):
        first.run(rounds=1)


def test_logs_and_checkpoints_stay_in_a_folder_that_is_given(tmp_path: Path) -> None:
    for rounds in (2, 5):
        result = Federation(
            LINE, clients=2, folder=tmp_path / "all", checkpoint_dir=tmp_path / "run",
            progress=False,
        ).run(rounds=rounds)  # fmt: skip
        assert result.version == rounds  # the second goes on from the first
    assert len(result.state.setup) == 1
    assert {path.name for path in (tmp_path / "all" / "logs").iterdir()} >= {
        "coordinator.log", "client.0.log", "client.1.log",
    }  # fmt: skip


def test_a_broker_that_is_there_is_used_by_its_bundles(place: Place, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(place.node.home / "bundles", home / "bundles")
    # Which is what other federations on this broker leave, and comes first.
    elsewhere = (home / "bundles" / f"{FLEET.name}.env").read_text()
    elsewhere = elsewhere.replace(f"/{place.name}", "/elsewhere").replace(FLEET.name, "a-fleet")
    (home / "bundles" / "a-fleet.env").write_text(elsewhere)
    result = Federation(
        LINE, clients=3, broker=home, progress=False, folder=tmp_path / "run"
    ).run(rounds=2)  # fmt: skip
    assert set(result.state.roster) == {"fleet.0", "fleet.1", "fleet.2"}
    named = Federation(LINE, clients={"alfa": {"shard": 0}}, broker=home / "bundles", quorum=1,
                       progress=False)  # fmt: skip
    assert set(named.run(rounds=1).state.roster) == {"alfa"}


def test_a_bundle_of_another_federation_is_refused(place: Place, tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    shutil.copytree(place.node.home / "bundles", bundles)
    stale = (bundles / "alfa.env").read_text().replace(f"/{place.name}", "/elsewhere")
    (bundles / "alfa.env").write_text(stale)
    clients = {"alfa": {"shard": 0}}
    with pytest.raises(ConfigError, match=f"is of federation elsewhere, .* of {place.name}"):
        Federation(LINE, clients=clients, broker=bundles, quorum=1, progress=False).run(rounds=1)


def test_when_all_clients_of_ours_have_ended_nobody_waits_for_those_of_others(
    place: Place, tmp_path: Path
) -> None:
    bundles = tmp_path / "bundles"
    shutil.copytree(place.node.home / "bundles", bundles)
    changed = re.sub(r"alfa:[^@]*@", "alfa:wrong@", (bundles / "alfa.env").read_text())
    (bundles / "alfa.env").write_text(changed)
    federation = Federation(
        LINE, clients={"alfa": {"shard": 0}}, broker=bundles, quorum=2, progress=False
    )
    with pytest.raises(FederationFailed, match=r"all 1 clients that were started here have ended"):
        federation.run(rounds=1)


def test_clients_elsewhere_are_coordinated_over_a_url(place: Place) -> None:
    clients = [
        Worker("client-worker", place.urls[name], "--client", name, "--task", LINE,
               WARREN_VERIFY_KEYS="")
        for name in CLIENTS[:2]
    ]  # fmt: skip
    result = Federation(clients=0, broker=place.urls["coordinator"], quorum=2, progress=False).run(
        rounds=2
    )
    assert set(result.state.roster) == set(CLIENTS[:2])
    assert [client.end() for client in clients] == [0, 0]
    with pytest.raises(ConfigError, match="it is the login of one user"):
        Federation(LINE, clients=2, broker=place.urls["coordinator"]).run(rounds=1)


def test_settings_of_the_environment_are_for_other_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WARREN_QUORUM", "7")
    monkeypatch.setenv("WARREN_BROKER_URL", "amqp://nobody@localhost:1/nowhere")
    assert Federation(LINE, clients=2, progress=False).run(rounds=1).version == 1
    assert os.environ["WARREN_QUORUM"] == "7"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_a_keras_task_gives_its_keras_model(module: Callable[[str], str], workers: Any) -> None:
    name = module(
        """
        import keras
        import numpy as np
        from client_worker import KerasTask

        def site(shard: int = 0) -> KerasTask:
            x = np.random.default_rng(shard).normal(size=(64, 3)).astype(np.float32)
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            return KerasTask(model, (x, x.sum(axis=1, keepdims=True)), 0.1, loss="mse")
        """
    )
    result = Federation(f"{name}:site", clients=2, workers=workers, progress=False).run(rounds=5)
    model = result.model
    assert type(model).__module__.startswith("keras.")
    for found, expected in zip(model.get_weights(), result.weights.values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert model.predict(np.ones((1, 3), np.float32), verbose=0).shape == (1, 1)
