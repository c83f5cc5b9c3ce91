"""No coordinator gets more out of a site than it has promised its records, or its limit allows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client_worker.privacy.ledger import read, total
from client_worker.privacy.site import SitePrivacy
from client_worker.privacy.terms import PrivacyLimit, RecordPrivacy, Refused
from client_worker.settings import ClientSettings
from warren_shared.config import settings
from warren_shared.errors import ConfigError
from warren_shared.privacy.accountant import mu_of
from warren_shared.protocol.messages import ModelManifest, PrivacyTerms, TensorEntry

RECORD = RecordPrivacy(epsilon=1, delta=1e-5, steps=10, examples=50)
LIMIT = PrivacyLimit(epsilon=2, delta=1e-5)
PROMISE = PrivacyTerms(epsilon=1, delta=1e-5, clip=1, contributions=2, distance=1, rounds=5)


def model(run: str = "aaaaaaaa", version: int = 0, privacy: PrivacyTerms | None = None) -> Any:
    tensors = [TensorEntry(name="0", shape=[4], dtype="float32")]
    return ModelManifest(
        federation="f", run=run, version=version, tensors=tensors, transfer="12345678",
        size_bytes=16, digest=1, privacy=privacy,
    )  # fmt: skip


@contextmanager
def site(folder: Path, *given: Any) -> Iterator[SitePrivacy]:
    """As one process has it; the next one reads what it has left."""
    made = SitePrivacy("f", folder, *given)
    try:
        yield made
    finally:
        if made._ledger is not None:
            made._ledger.close()


def spend(made: SitePrivacy, manifest: ModelManifest, steps: int) -> int:
    """Steps granted; 0 if it does not train."""
    if not made.admit("alfa", manifest):
        return 0
    budget = made.adopt(None)
    assert budget is not None
    return budget.spend(steps)


def test_a_run_gets_the_steps_there_are_and_then_none(tmp_path: Path) -> None:
    with site(tmp_path, RECORD) as one:
        assert [spend(one, model(version=v), 4) for v in range(4)] == [4, 4, 2, 0]
        assert "all 10 steps" in one.spent_words()
        assert one.spent_words() == "", "it is said once"
        with pytest.raises(Refused, match="no step is left"):
            one.spend(1)


def test_a_restart_refunds_nothing(tmp_path: Path) -> None:
    granted = []
    for version in range(5):
        with site(tmp_path, RECORD) as one:
            granted.append(spend(one, model(version=version), 4))
            assert sum(claim.spent for claim in read(tmp_path)) == sum(granted)
    assert granted == [4, 4, 2, 0, 0]


def test_training_again_is_paid_again(tmp_path: Path) -> None:
    with site(tmp_path, RECORD) as one:
        assert [spend(one, model(version=3), 4) for _ in range(3)] == [4, 4, 2]


def test_another_run_is_no_new_budget(tmp_path: Path) -> None:
    """A coordinator names its runs as it likes."""
    with site(tmp_path, RECORD) as one:
        assert spend(one, model("aaaaaaaa"), 7) == 7
        assert spend(one, model("bbbbbbbb"), 7) == 3
        assert spend(one, model("cccccccc"), 7) == 0
        assert "--privacy-limit allows for more runs" in one.spent_words()
    assert total(read(tmp_path)).mu == pytest.approx(RECORD.mu)


def test_with_a_limit_each_run_has_its_budget_until_the_limit_is_reached(tmp_path: Path) -> None:
    runs = [f"{number:08x}" for number in range(8)]
    with site(tmp_path, RECORD, LIMIT) as one:
        granted = [spend(one, model(run), 100) for run in runs]
        assert "leaves no step" in one.spent_words()
    assert granted[:3] == [10, 10, 10]
    assert max(granted) == 10
    assert granted[-1] == 0
    whole = total(read(tmp_path))
    assert whole.mu <= LIMIT.mu
    assert whole.mu > LIMIT.mu - RECORD.mu_of_step


def test_other_terms_in_the_middle_of_a_run_are_no_new_budget_either(tmp_path: Path) -> None:
    with site(tmp_path, RECORD) as one:
        assert spend(one, model(), 9) == 9
    for epsilon, steps in ((1.0, 1000), (0.5, 10), (1.0, 7)):
        other = RecordPrivacy(epsilon=epsilon, delta=1e-5, steps=steps, examples=50)
        with site(tmp_path, other) as one:
            spend(one, model(), 10_000)
        assert total(read(tmp_path)).mu <= RECORD.mu * (1 + 1e-9)
    more = RecordPrivacy(epsilon=2, delta=1e-5, steps=10, examples=50)
    with site(tmp_path, more) as one:
        assert 1 <= spend(one, model(), 100) < 10
    assert total(read(tmp_path)).mu <= more.mu * (1 + 1e-9)


def test_a_promise_to_clients_is_claimed_once_and_before_anything_else(tmp_path: Path) -> None:
    with site(tmp_path, None, LIMIT) as one:
        for version in range(3):
            assert one.admit("alfa", model(version=version, privacy=PROMISE))
            (found,) = read(tmp_path)
            assert found.unit == "client"
    assert found.mu == pytest.approx(mu_of(1, 1e-5))


def test_a_run_of_just_the_limit_is_within_it(tmp_path: Path) -> None:
    promise = PROMISE.model_copy(update={"epsilon": 2.0})
    with site(tmp_path, None, LIMIT) as one:
        assert one.admit("alfa", model(privacy=promise))
        with pytest.raises(Refused, match=r"all runs would come to epsilon=2\.0"):
            one.admit("alfa", model("bbbbbbbb", privacy=PROMISE.model_copy(
                update={"epsilon": 0.1})))  # fmt: skip
        assert one.admit("alfa", model(version=1, privacy=promise)), "the first run goes on"


def test_runs_add_up_to_the_limit_over_restarts(tmp_path: Path) -> None:
    admitted = 0
    for number in range(8):
        with site(tmp_path, None, LIMIT) as one:
            manifest = model(f"{number:08x}", privacy=PROMISE)
            if number < int(LIMIT.mu**2 / mu_of(1, 1e-5) ** 2):
                admitted += one.admit("alfa", manifest)
                continue
            with pytest.raises(Refused, match="come to epsilon") as caught:
                one.admit("alfa", manifest)
            assert len(str(caught.value)) <= 256
    assert 2 <= admitted < 8
    assert total(read(tmp_path)).mu <= LIMIT.mu


def test_a_run_that_changes_its_promise_claims_both(tmp_path: Path) -> None:
    with site(tmp_path, None, LIMIT) as one:
        one.admit("alfa", model(privacy=PROMISE))
        with pytest.raises(Refused, match="come to epsilon"):
            one.admit("alfa", model(privacy=PROMISE.model_copy(update={"epsilon": 1.9})))


def test_a_run_that_promises_nothing_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(Refused, match="promises its clients no privacy")
    with site(tmp_path, None, LIMIT) as one, refused:
        one.admit("alfa", model())
    assert read(tmp_path) == []


def test_noise_of_its_own_needs_no_promise(tmp_path: Path) -> None:
    with site(tmp_path, RECORD, LIMIT) as one:
        assert spend(one, model(), 3) == 3
        assert spend(one, model("bbbbbbbb", privacy=PROMISE), 3) == 3
    assert {claim.unit for claim in read(tmp_path)} == {"record"}


def test_what_was_promised_to_clients_counts_twice_for_records(tmp_path: Path) -> None:
    with site(tmp_path, None, LIMIT) as one:
        one.admit("alfa", model("bbbbbbbb", privacy=PROMISE.model_copy(update={"epsilon": 0.9})))
    with site(tmp_path, RECORD, LIMIT) as one:
        granted = spend(one, model(), 100)
    assert granted < 10
    whole = total(read(tmp_path))
    assert whole.unit == "record"
    assert whole.mu <= LIMIT.mu * (1 + 1e-9)


def test_only_what_was_trained_with_noise_is_sent_again(tmp_path: Path) -> None:
    with site(tmp_path, RECORD) as one:
        spend(one, model(version=4), 1)
        assert one.has_trained(model(version=6), 4)
        assert not one.has_trained(model(version=6), 3)
        assert not one.has_trained(model("bbbbbbbb", version=6), 4)
    with site(tmp_path) as other:
        assert other.has_trained(model(), 3)


def test_a_task_that_promises_needs_the_folder_and_must_not_contradict(tmp_path: Path) -> None:
    from client_worker.privacy.budget import MemoryBudget

    with pytest.raises(ConfigError, match="need --state-dir"):
        SitePrivacy("f", None).adopt(MemoryBudget(RECORD))
    with site(tmp_path) as one:
        assert one.adopt(MemoryBudget(RECORD)) is not None
        assert one.keeps_records
    other = RecordPrivacy(epsilon=2, delta=1e-5, steps=10, examples=50)
    with site(tmp_path, other) as one, pytest.raises(ConfigError, match="leave one of them out"):
        one.adopt(MemoryBudget(RECORD))


SPEC = "epsilon=1,delta=1e-5,steps=10,examples=50"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--record-privacy", SPEC], "need --state-dir"),
        (["--privacy-limit", "epsilon=1,delta=1e-5"], "need --state-dir"),
        (["--record-privacy", SPEC, "--state-dir", "x", "--fleet", "f"], "--client FLEET.NUMBER"),
        (["--record-privacy", SPEC, "--state-dir", "x", "--fleet", "f", "--virtual", "2"], "slot"),
        (["--privacy-limit", "epsilon=1", "--state-dir", "x"], "needs delta"),
        (["--record-privacy", "epsilon=1", "--state-dir", "x"], "needs delta"),
    ],
)
def test_flags_that_make_no_promise_are_refused_at_the_start(words: list[str], said: str) -> None:
    base = ["--broker-url", "amqp://f:x@localhost/f", "--task", "a:b"]
    with pytest.raises(ConfigError, match=said) as caught:
        settings.load(ClientSettings, description="", argv=[*base, *words])
    assert "\n" not in str(caught.value)
    assert not Path("x").exists()


def test_a_limit_that_believes_a_promise_needs_the_coordinators_keys() -> None:
    base = ["--broker-url", "amqp://f:x@localhost/f", "--task", "a:b", "--state-dir", "x"]
    limit = ["--privacy-limit", "epsilon=1,delta=1e-5"]
    for more, is_believed in ([], False), (["--verify-keys", "k"], True), (
        ["--record-privacy", SPEC], True,
    ):  # fmt: skip
        given, _ = settings.load(ClientSettings, description="", argv=[*base, *limit, *more])
        if is_believed:
            given.check_keys()
            continue
        with pytest.raises(ConfigError, match="anybody could promise"):
            given.check_keys()
