"""Sites whose records are private, over a real broker: what is told, what is spent, what ends."""

import json
import signal
import subprocess
from pathlib import Path

import numpy as np

from client_worker.privacy.ledger import FILE, read
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.audit_files import read as audit_lines
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.processes import BIN, Worker, workers

# descent() of tests.tasks takes three steps a round.
PROMISE = "epsilon=50,delta=1e-4,steps={steps},examples=100,clip=30"


def client(place: Place, folder: Path, user: str, steps: int, *more: str) -> Worker:
    told = ("--record-privacy", PROMISE.format(steps=steps), "--state-dir", str(folder / user))
    return start_client(place, user, "descent", *told, *more)


def coordinator(place: Place, folder: Path, *more: str) -> Worker:
    path = folder / "initial.npz"
    np.savez(path, np.zeros((4, 1)), np.zeros(1))
    return start_coordinator(place, folder / "checkpoint", "--initial-model", str(path), *more)


def spent(folder: Path) -> int:
    return sum(claim.spent for claim in read(folder)) if folder.exists() else 0


def test_private_sites_learn_together_and_tell_nothing_else(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        for user in ("alfa", "bravo", "charlie"):
            started.append(client(place, tmp_path, user, 30))
        started.append(coordinator(place, tmp_path, "--quorum", "3", "--rounds", "10"))
        assert [worker.end() for worker in started] == [0] * 4
        state = checkpoint.load(tmp_path / "checkpoint")
    assert state is not None
    for record in state.history:
        assert record.metrics == {}
        assert record.evaluation is None
        assert record.final_evaluation is None
        assert record.examples == 300
    lines = [json.loads(text) for _, text in audit_lines(tmp_path / "checkpoint")]
    assert {line["num_examples"] for line in lines if "num_examples" in line} <= {100}
    for user in ("alfa", "bravo", "charlie"):
        (claim,) = read(tmp_path / user)
        assert (claim.spent, claim.steps, claim.client) == (30, 30, user)
        assert claim.run == state.run
    away = np.abs(np.asarray(next(iter(state.weights)))[:, 0] - np.arange(1.0, 5))
    assert away.max() < 1, "it is near y = x . (1, 2, 3, 4) + 3"
    told = [str(BIN / "client-worker"), "privacy", "--state-dir", str(tmp_path / "alfa"), "--json"]
    found = json.loads(subprocess.check_output(told, text=True))
    assert found["runs"][0]["epsilon_spent"] == 50


def test_a_site_whose_budget_is_spent_says_so_and_the_others_go_on(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        started.append(poor := client(place, tmp_path, "alfa", 7))
        started.append(client(place, tmp_path, "bravo", 100))
        started.append(one := coordinator(
            place, tmp_path, "--quorum", "2", "--min-quorum", "1", "--deadline-s", "0.5",
            "--rounds", "6"))  # fmt: skip
        failed = one.wait_for("client_failed", client="alfa")
        assert "all 7 steps of this site's budget are spent" in failed["message"]
        assert one.end() == 0, one.said
        assert poor.end() == 0, poor.said
        assert poor.said.count("privacy_spent") == 1
    assert spent(tmp_path / "alfa") == 7


def test_kills_refund_nothing(place: Place, tmp_path: Path) -> None:
    """Killed while it trains, and while it publishes; the disk knows of each training begun."""
    with workers() as started:
        started.append(one := coordinator(place, tmp_path, "--quorum", "1", "--rounds", "8"))
        before = 0
        for action in ("training", "update_confirmed", "training", "update_confirmed"):
            started.append(site := client(place, tmp_path, "alfa", 300))
            site.wait_for(action)
            site.kill(signal.SIGKILL)
            after = spent(tmp_path / "alfa")
            assert after >= before
            confirmed = site.said.count('"update_confirmed"')
            assert after - before >= 3 * confirmed
            before = after
        started.append(site := client(place, tmp_path, "alfa", 300))
        assert site.end() == 0, site.said
        assert one.end() == 0, one.said
    lines = [json.loads(text) for _, text in audit_lines(tmp_path / "checkpoint")]
    folded = sum(len(line["contributions"]) for line in lines if "contributions" in line)
    assert folded == 8
    assert spent(tmp_path / "alfa") >= 3 * folded


def test_a_site_with_a_limit_takes_no_part_in_a_run_that_promises_nothing(
    place: Place, tmp_path: Path
) -> None:
    limit = ("--privacy-limit", "epsilon=8,delta=1e-5", "--state-dir", str(tmp_path / "alfa"))
    with workers() as started:
        started.append(one := coordinator(place, tmp_path, "--quorum", "1", "--rounds", "2"))
        started.append(site := start_client(place, "alfa", "descent", *limit))
        failed = one.wait_for("client_failed", client="alfa")
        assert "promises its clients no privacy" in failed["message"]
        assert site.end() == 2
        assert "--privacy-limit epsilon=8" in site.said.splitlines()[-1]
    assert not (tmp_path / "alfa" / FILE).exists()


def test_a_private_site_does_not_begin_the_model(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        started.append(site := client(place, tmp_path, "alfa", 30))
        started.append(one := start_coordinator(
            place, tmp_path / "checkpoint", "--quorum", "1", "--rounds", "1"))  # fmt: skip
        site.wait_for("initial_refused")
        assert "--initial-model" in one.wait_for("client_failed", client="alfa")["message"]
        started.append(start_client(place, "bravo", "descent"))
        assert one.end() == 0, one.said
