"""What a client says and does where its records are private, or its privacy has a limit."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_worker import Evaluation, Task
from client_worker.models.linear import logistic_regression
from client_worker.privacy.ledger import FILE
from client_worker.runtime.mailbox import ModelCache
from client_worker.runtime.participant import Participant
from client_worker.runtime.update_store import UpdateStore
from client_worker.settings import ClientSettings
from client_worker.tasks.task import TaskSource
from tests.support.bodies import bodies_of
from tests.support.processes import ENCRYPT, KEYS
from warren_shared.amqp.delivery import Delivery
from warren_shared.errors import ConfigError
from warren_shared.observability.event_bus import EventBus
from warren_shared.protocol.codec import decode, encode, tensor_entries
from warren_shared.protocol.encryption import SEEDS, UpdateEncryptor
from warren_shared.protocol.messages import (
    PROTOCOL,
    Failed,
    Join,
    LocalTraining,
    MaskTerms,
    ModelManifest,
    Notice,
    PrivacyTerms,
    UpdateManifest,
)
from warren_shared.protocol.transfer import Outgoing, new_transfer, transfer_fields
from warren_shared.tensors.layout import Layout, Weights

ENCRYPT_KEY = ENCRYPT["WARREN_ENCRYPT_KEY"]
RUN, SECRET = "cafe0001", "patient 17"
RECORD = "epsilon=1,delta=1e-5,steps=3,examples=40"
PROMISE = PrivacyTerms(epsilon=1, delta=1e-5, clip=1, contributions=2, distance=1, rounds=5)
FAILING: list[Exception] = []


class Model:
    """A logistic regression that evaluates, has a vocabulary, and may fail."""

    epochs = 1

    def __init__(self) -> None:
        self.inner = logistic_regression(2)

    def get_weights(self) -> list[np.ndarray]:
        return self.inner.get_weights()

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.inner.set_weights(weights)

    def fit(self, data: Any, rate: float) -> dict[str, float]:
        return self.inner.fit(data, rate)

    def evaluate(self, _data: Any) -> Evaluation:
        return Evaluation(7, {"loss": 0.5})

    def fixed_state(self) -> dict[str, str]:
        return {"vocabulary": "12345678"}

    def per_example_gradients(self, data: Any) -> Iterator[np.ndarray]:
        if FAILING:
            raise FAILING.pop()
        return self.inner.per_example_gradients(data)


def task() -> Task:
    x = np.random.default_rng(0).normal(size=(31, 2))
    y = (x[:, 0] > 0).astype(int)
    return Task(Model(), (x, y), 0.1, validation=(x, y))


class Process:
    """A client's process without a broker; ``folder`` is what the next one finds."""

    def __init__(self, folder: Path, **given: str) -> None:
        self.folder = folder
        self.shelf, self.keep, self.event_bus = ModelCache(), UpdateStore(folder), EventBus()
        self.published: list[tuple[str, Any]] = []
        self.spent: list[int] = []  # in the ledger, whenever an update was published
        self.loses = False
        self.reads = PROTOCOL  # of the coordinator
        trusts = given.keys() & {"privacy_limit", "keeper_key"}
        keys = KEYS["client-worker"]["WARREN_VERIFY_KEYS"] if trusts else None
        settings = ClientSettings(
            task="x:y", federation="f", broker_url="amqp://alfa@localhost/f", state_dir=folder,
            verify_keys=keys, **given,
        )  # fmt: skip
        source = TaskSource(f"{__name__}:task", [])
        self.one = Participant(settings, source, self)
        self.one.mailbox._verifier = None  # the models of this test are not signed
        self.one.prepare()
        self.one.lease("alfa")
        self.one.process_mailbox()

    def publish(self, bodies: Any, kind: str) -> None:
        if kind == "update":
            claims = json.loads((self.folder / FILE).read_text())["claims"]
            self.spent.append(sum(claim["spent"] for claim in claims))
            if self.loses:
                raise KeyboardInterrupt
        body = next(iter(bodies))
        self.published.append((kind, decode(memoryview(b"".join(body)))[0]))

    def publish_seed(self, sealed: Any) -> None:
        self.published.append(("mask", sealed))

    def wake(self, participant: Participant) -> None: ...

    def expect(self, layout: Layout) -> None:
        self.one.mailbox.expect(layout)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None: ...

    def deliver(self, *bodies: bytes) -> None:
        for tag, body in enumerate(bodies, start=1):
            delivery = Delivery(
                memoryview(body), tag, 1, "coordinator", redelivered=False, reads=self.reads
            )
            self.one.mailbox.deliver(delivery)
        self.one.process_mailbox()

    def model(self, version: int, **told: Any) -> None:
        weights = Weights.of([np.zeros((2, 1)), np.zeros(1)])
        manifest = ModelManifest(
            federation="f", run=RUN, version=version, tensors=tensor_entries(weights.layout),
            **told, **transfer_fields(weights.buffer, new_transfer()),
        )  # fmt: skip
        self.deliver(*bodies_of(Outgoing(manifest, weights.buffer)))

    def end(self) -> None:
        ledger = self.one._privacy._ledger
        if ledger is not None:
            ledger.close()

    def of(self, kind: type) -> list[Any]:
        return [message for _, message in self.published if isinstance(message, kind)]


@pytest.fixture(autouse=True)
def _nothing_fails() -> None:
    FAILING.clear()


@pytest.fixture
def private(tmp_path: Path) -> Process:
    return Process(tmp_path, record_privacy=RECORD)


def test_an_update_says_nothing_but_its_weights_and_what_it_cost_is_written_before(
    private: Process,
) -> None:
    private.model(0, local=LocalTraining(steps=2))
    (update,) = private.of(UpdateManifest)
    assert update.num_examples == 40
    assert update.metrics == {}
    assert update.evaluation is None
    assert update.not_finite == []
    assert private.spent == [2]


def test_both_promises_go_together(private: Process) -> None:
    """The coordinator's bounds are heeded, and the site's own noise is all that is claimed."""
    private.model(0, privacy=PROMISE)
    (update,) = private.of(UpdateManifest)
    assert update.num_examples == 1
    (claim,) = json.loads((private.folder / FILE).read_text())["claims"]
    assert (claim["unit"], claim["spent"]) == ("record", 1)


def test_without_privacy_the_same_client_says_all_this(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"format": 1, "claims": []}')
    plain = Process(tmp_path)
    plain.model(0, fixed_state={"vocabulary": "12345678"})
    (update,) = plain.of(UpdateManifest)
    assert update.num_examples == 31
    assert update.metrics
    assert update.evaluation is not None
    plain.model(1, final=True)
    assert plain.published[-1][0] == "evaluated"


def test_no_evaluation_of_the_final_model_is_sent(private: Process) -> None:
    private.model(0)
    private.model(1, final=True)
    assert private.one.has_ended
    assert [kind for kind, _ in private.published] == ["join", "update"]


def test_a_join_does_not_tell_of_a_vocabulary(private: Process) -> None:
    (join,) = private.of(Join)
    assert join.fixed_state == {}
    with pytest.raises(ConfigError, match="vocabulary is not the federation's"):
        private.model(0, fixed_state={"vocabulary": "87654321"})
    (failed,) = private.of(Failed)
    assert "1234" not in failed.reason


def test_initial_weights_are_not_sent(private: Process) -> None:
    notice = Notice(notice="send-initial")
    private.deliver(b"".join(encode(notice)))
    (failed,) = private.of(Failed)
    assert "--initial-model" in failed.reason
    assert not failed.ends
    assert [kind for kind, _ in private.published] == ["join", "failed"]


def test_why_the_task_failed_stays_at_the_site(private: Process) -> None:
    FAILING.append(ValueError(SECRET))
    private.model(0)
    (failed,) = private.of(Failed)
    assert failed.reason == "the reason is in the client's own log (--record-privacy)"


def test_when_the_budget_is_spent_the_client_says_so_once_and_waits_for_the_end(
    private: Process,
) -> None:
    for version in range(6):
        private.model(version)
    assert private.spent == [1, 2, 3]
    (failed,) = private.of(Failed)
    assert failed.ends
    assert "all 3 steps" in failed.reason
    assert not private.one.has_ended
    private.model(6, final=True)
    assert private.one.has_ended


def test_a_crash_after_training_refunds_nothing_and_sends_the_same_update(
    tmp_path: Path, private: Process
) -> None:
    private.loses = True
    with pytest.raises(KeyboardInterrupt):
        private.model(0, local=LocalTraining(steps=2))
    private.end()
    again = Process(tmp_path, record_privacy=RECORD)
    again.model(0, local=LocalTraining(steps=2))
    assert again.spent == [2], "it was sent again, not trained again"
    again.model(1, local=LocalTraining(steps=2))
    assert again.spent == [2, 3]


def test_an_update_that_was_trained_without_noise_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"format": 1, "claims": []}')
    plain = Process(tmp_path)
    plain.loses = True
    with pytest.raises(KeyboardInterrupt):
        plain.model(0, fixed_state={"vocabulary": "12345678"})
    assert plain.keep.has_update("alfa")
    private = Process(tmp_path, record_privacy=RECORD)
    private.model(1, max_staleness=2)
    (update,) = private.of(UpdateManifest)
    assert (update.base_version, update.num_examples) == (1, 40)


def test_what_was_masked_under_other_terms_is_not_sent_but_trained_again(tmp_path: Path) -> None:
    """The keeper would refuse it, and the round would wait for what it cannot have."""
    key = UpdateEncryptor.of(ENCRYPT_KEY, "f", "alfa", SEEDS)
    assert key is not None
    terms = MaskTerms(
        keeper=key.key_id, least=3, ring=32, scale=2.0**20, clip=1, weights=[2, 1], examples=100,
        limb=24,
    )  # fmt: skip
    trust = {"keeper_key": ENCRYPT_KEY, "encrypt_key": ENCRYPT_KEY}
    told = {"fixed_state": {"vocabulary": "12345678"}, "max_staleness": 1}
    for new, transfers in ((terms, 1), (terms.model_copy(update={"clip": 2.0}), 2)):
        folder = tmp_path / str(transfers)
        folder.mkdir()
        (folder / FILE).write_text('{"format": 1, "claims": []}')
        first = Process(folder, **trust)
        first.loses = True
        with pytest.raises(KeyboardInterrupt):
            first.model(0, secure=terms, **told)
        kept = first.keep.get("alfa", first.one._client.layout_for(LocalTraining()))
        again = Process(folder, **trust)
        again.model(0, secure=new, **told)
        (update,) = again.of(UpdateManifest)
        assert kept is not None
        assert (update.transfer == kept[0].manifest.transfer) == (new is terms)


def test_beyond_the_limit_the_client_ends_and_says_why(tmp_path: Path) -> None:
    one = Process(tmp_path, privacy_limit="epsilon=1.2,delta=1e-5")
    one.model(0, privacy=PROMISE, fixed_state={"vocabulary": "12345678"})
    assert len(one.of(UpdateManifest)) == 1
    more = PROMISE.model_copy(update={"epsilon": 1.1})
    with pytest.raises(ConfigError, match=r"--privacy-limit epsilon=1\.2"):
        one.model(1, privacy=more, fixed_state={"vocabulary": "12345678"})
    (failed,) = one.of(Failed)
    assert failed.ends
    assert "--privacy-limit" in failed.reason
    assert len(one.of(UpdateManifest)) == 1


def test_a_run_that_promises_nothing_gets_nothing(tmp_path: Path) -> None:
    one = Process(tmp_path, privacy_limit="epsilon=1,delta=1e-5")
    with pytest.raises(ConfigError, match="promises its clients no privacy"):
        one.model(0)
    assert one.of(UpdateManifest) == []


def test_an_update_says_which_code_made_it_to_a_coordinator_that_can_read_that(
    tmp_path: Path,
) -> None:
    (tmp_path / FILE).write_text('{"format": 1, "claims": []}')
    plain = Process(tmp_path)
    plain.model(0)
    plain.reads = 4
    plain.model(1)
    newer, older = plain.of(UpdateManifest)
    assert newer.code == TaskSource(f"{__name__}:task", []).code != ""
    assert older.code == ""
    assert older.header()["protocol"] <= 4


def test_an_update_that_was_kept_is_readable_for_an_older_coordinator(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"format": 1, "claims": []}')
    first = Process(tmp_path)
    first.loses = True
    with pytest.raises(KeyboardInterrupt):
        first.model(0)
    second = Process(tmp_path)
    second.reads = 4
    second.model(0)
    (sent,) = second.of(UpdateManifest)
    assert sent.code == ""
