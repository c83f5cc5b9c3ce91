"""The keeper at a real broker: sums, refusals, and what becomes of both when it is killed."""

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker_config.node.record import Node
from keeper_worker.ledger.journal import read_history
from tests.support.keeper_stage import Answer, Stage, stage
from tests.support.masking import ELEMENTS, row_of, seed_of, transfer_of
from tests.support.pace import DEADLINE_S
from warren_shared.privacy.mask import add_mask
from warren_shared.protocol.messages import PrivacyTerms, Revealed
from warren_shared.protocol.signing import Signer

CLIENTS = ("alfa", "bravo", "charlie", "delta", "stranger")
KNOWN = CLIENTS[:4]
THREE = CLIENTS[:3]
RUN = "ab" * 4


@pytest.fixture
def alone(node: Node, tmp_path: Path) -> Iterator[Stage]:
    """A federation without a running keeper, for one test."""
    with stage(node, tmp_path / "keeper", CLIENTS) as made:
        yield made


@pytest.fixture(scope="module")
def shared(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A keeper for many tests, each of which has a run of its own."""
    folder = tmp_path_factory.mktemp("keeper")
    known = folder / "clients"
    known.write_text("# our sites\nalfa\nbravo # in the north\ncharlie\ndelta\nfleet\n")
    with stage(node, folder / "state", CLIENTS) as made:
        made.start("--clients", str(known))
        yield made


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    """An id that no other test has."""
    return hashlib.sha256(request.node.name.encode()).hexdigest()[:8]


def masks(
    clients: tuple[str, ...], base: int = 0, weight: int = 4, size: int = ELEMENTS, run: str = RUN
) -> bytes:
    total = np.zeros(size, np.uint32)
    for client in clients:
        add_mask(total, bytes.fromhex(seed_of(client, base, run=run).seed), weight)
    return total.tobytes()


def sum_of(answer: Answer) -> bytes:
    assert not isinstance(answer, Revealed), answer
    return answer[1]


def refusal(answer: Answer) -> Revealed:
    assert isinstance(answer, Revealed), answer
    assert answer.reason
    assert answer.detail
    return answer


def waiting(stage: Stage, queue: str) -> int:
    found = stage.place.management.get("queues", stage.place.name, queue)
    return int(found.get("messages", 0))


def until(holds: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)  # the management API has no events


def test_the_coordinator_gets_the_sum_of_the_masks_and_nobody_else_can_read_it(
    shared: Stage, run: str
) -> None:
    shared.send(*(shared.seed(client, run=run) for client in THREE))
    answer = shared.ask(shared.request(1, *THREE, run=run))
    assert sum_of(answer) == masks(THREE, run=run)
    assert isinstance(answer, tuple)
    assert (answer[0].version, answer[0].rounds, answer[0].figures) == (1, 1, [])
    assert shared.ask(shared.request(1, *reversed(THREE), run=run))[1] == answer[1]  # type: ignore[index]


def test_a_sum_of_many_chunks_comes_whole(shared: Stage, run: str) -> None:
    size = 700_000
    shared.send(*(shared.seed(client, run=run, elements=size) for client in THREE))
    assert sum_of(shared.ask(shared.request(1, *THREE, run=run))) == masks(
        THREE, size=size, run=run
    )


def test_seeds_that_come_after_the_request_are_waited_for(shared: Stage, run: str) -> None:
    shared.put(shared.request(1, *THREE, run=run))
    shared.send(*(shared.seed(client, run=run) for client in THREE))
    assert sum_of(shared.answer()) == masks(THREE, run=run)


def test_a_question_is_answered_with_what_was_revealed(shared: Stage, run: str) -> None:
    shared.send(*(shared.seed(client, run=run) for client in THREE))
    nothing = shared.ask(shared.request(1, run=run))
    assert isinstance(nothing, Revealed)
    assert (nothing.transfers, nothing.reason, nothing.rounds) == ([], "", 0)
    shared.ask(shared.request(1, *THREE, run=run))
    told = shared.ask(shared.request(1, run=run))
    assert isinstance(told, Revealed)
    assert told.transfers == [transfer_of(client, 0, run=run) for client in THREE]
    assert (told.reason, told.rounds) == ("", 1)


# --- refusals: each is an attack that works otherwise ---------------------------------------------


def few(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in ("fleet.0", "fleet.1", "alfa")))
    return stage.ask(stage.request(1, "fleet.0", "fleet.1", "alfa", run=run))


def version(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in KNOWN))
    stage.ask(stage.request(1, *THREE, run=run))
    return stage.ask(stage.request(1, *KNOWN, run=run))


def spent(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in THREE))
    stage.ask(stage.request(1, *THREE, run=run))
    stage.send(*(stage.seed(client, 1, run=run) for client in KNOWN))
    return stage.ask(stage.request(2, ("alfa", 0), *KNOWN[1:], run=run))


def gone(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in THREE))
    stage.send(*(stage.seed(client, 1, run=run) for client in THREE))
    stage.ask(stage.request(1, *THREE, run=run))
    stage.ask(stage.request(2, *THREE, run=run))
    return stage.ask(stage.request(1, *THREE, run=run))


def identity(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in THREE))
    stage.send(stage.seed("delta", run=run), sender="alfa")
    return stage.ask(stage.request(1, *KNOWN, run=run))


def unknown(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in CLIENTS))
    return stage.ask(stage.request(1, *CLIENTS, run=run))


def weight(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in THREE))
    rows = [row_of(client, 0, 1, run=run) for client in THREE]
    rows[0] = rows[0].model_copy(update={"weight": 1})
    return stage.ask(stage.request(1, run=run, updates=rows))


def model(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in THREE))
    stage.send(stage.seed("delta", run=run, model="11" * 32))
    return stage.ask(stage.request(1, *KNOWN, run=run))


def layout(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in THREE))
    return stage.ask(stage.request(1, *THREE, run=run, layout="00" * 8))


def terms(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in THREE))
    other = stage.terms.model_copy(update={"scale": 1.0})
    return stage.ask(stage.request(1, *THREE, run=run, secure=other))


def of_another_run(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in THREE))
    rows = [row_of(client, 0, 1, run=run) for client in THREE]
    return stage.ask(stage.request(1, run=run[::-1], updates=rows))


def missing(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in THREE))
    return stage.ask(stage.request(1, *KNOWN, run=run))


def signature(stage: Stage, run: str) -> Answer:
    stage.send(*(stage.seed(client, run=run) for client in THREE))
    signer = Signer([Ed25519PrivateKey.generate()])
    return stage.ask(stage.request(1, *THREE, run=run), signer=signer)


def federation(stage: Stage, run: str) -> Answer:
    return stage.ask(stage.request(1, *THREE, run=run, federation="another"))


def keeper(stage: Stage, run: str) -> Answer:
    other = stage.terms.model_copy(update={"keeper": "00" * 8})
    return stage.ask(stage.request(1, *THREE, run=run, secure=other))


def privacy(stage: Stage, run: str) -> Answer:
    told = PrivacyTerms(epsilon=1, delta=1e-5, clip=1, contributions=1, distance=1, rounds=9)
    stage.send(*(stage.seed(client, run=run, privacy=told) for client in THREE))
    return stage.ask(stage.request(1, *THREE, run=run, privacy=told))


@pytest.mark.parametrize(
    ("attack", "at_fault"),
    [
        (few, None),
        (version, THREE),
        (spent, ("alfa",)),
        (gone, None),
        (identity, ("delta",)),
        (unknown, ("stranger",)),
        (weight, ("alfa",)),
        (model, ("delta",)),
        (layout, None),
        (terms, None),
        (of_another_run, None),
        (missing, ("delta",)),
        (signature, None),
        (federation, None),
        (keeper, None),
        (privacy, None),
    ],
)
def test_the_keeper_refuses(
    shared: Stage,
    run: str,
    attack: Callable[[Stage, str], Answer],
    at_fault: tuple[str, ...] | None,
) -> None:
    refused = refusal(attack(shared, run))
    assert refused.reason == ("run" if attack is of_another_run else attack.__name__)
    if at_fault is not None:
        assert refused.transfers == [transfer_of(client, 0, run=run) for client in at_fault]
    # And it goes on.
    other = run[::-1]
    shared.send(*(shared.seed(client, 7, run=other) for client in THREE))
    assert sum_of(shared.ask(shared.request(8, *THREE, run=other))) == masks(THREE, 7, run=other)


def test_what_is_no_seed_is_dropped_and_what_comes_after_counts(shared: Stage, run: str) -> None:
    for body in (b"", b"\xc1", b"".join(()), os.urandom(300)):
        shared.publish("alfa", "update", "mask", body)
    shared.send(*(shared.seed(client, run=run, federation="another") for client in THREE))
    shared.publish("coordinator", "", "unmask", b"nothing")
    shared.send(*(shared.seed(client, run=run) for client in THREE))
    assert sum_of(shared.ask(shared.request(1, *THREE, run=run))) == masks(THREE, run=run)


# --- crashes --------------------------------------------------------------------------------------

KILLED_BEFORE_THE_ANSWER = """
import os, signal, sys
from keeper_worker.cli import main
from keeper_worker.runtime.answers import Answers
Answers.unmasked = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main())
"""


def program(folder: Path, text: str) -> str:
    path = folder / "keeper-worker"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)


def test_killed_between_ledger_and_answer_it_reveals_that_set_and_no_other(
    alone: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TEST_KEEPER_WORKER", program(tmp_path, KILLED_BEFORE_THE_ANSWER))
        first = alone.start()
        alone.send(*(alone.seed(client) for client in KNOWN))
        alone.put(alone.request(1, *THREE))
        assert first.end() == -signal.SIGKILL
    history = read_history(alone.folder, alone.keys.encrypt_key_id)
    assert history.runs[RUN].newest.version == 1
    second = alone.start()
    assert sum_of(alone.answer()) == masks(THREE)  # the request was never acknowledged
    assert second.wait_for("sum_given")["repeats"]
    refused = refusal(alone.ask(alone.request(1, *KNOWN)))
    assert refused.reason == "version"
    assert refused.transfers == [transfer_of(client, 0) for client in THREE]


def test_a_standby_goes_on_where_the_other_keeper_was_killed(alone: Stage) -> None:
    first = alone.start()
    alone.send(*(alone.seed(client) for client in KNOWN))
    before = sum_of(alone.ask(alone.request(1, *THREE)))
    second = alone.start(wait="standby")
    first.kill()
    second.wait_for("active")
    assert sum_of(alone.ask(alone.request(1, *THREE))) == before
    assert refusal(alone.ask(alone.request(1, *KNOWN))).reason == "version"
    assert second.kill(signal.SIGTERM) == 143


def test_seeds_are_kept_by_the_broker_until_a_later_version_is_asked_for(alone: Stage) -> None:
    alone.start()
    alone.send(*(alone.seed(client) for client in KNOWN))
    alone.ask(alone.request(1, *THREE))
    alone.keepers[-1].kill()
    until(lambda: waiting(alone, "mask") == 4)
    alone.start()
    alone.ask(alone.request(2))
    until(lambda: waiting(alone, "mask") == 1)  # that of the one that was in no set
    refused = refusal(alone.ask(alone.request(1, *THREE)))
    assert refused.reason == "gone"


def test_a_keeper_that_is_stopped_leaves_all_to_the_next(alone: Stage) -> None:
    alone.send(*(alone.seed(client) for client in THREE))
    worker = alone.start()
    assert worker.kill(signal.SIGTERM) == 143
    alone.put(alone.request(1, *THREE))
    alone.start()
    assert sum_of(alone.answer()) == masks(THREE)


SPEC = "correlated:epsilon=4,delta=1e-5,clip=0.5,contributions=4,distance=1,small=true"


def test_with_noise_the_same_request_gets_the_same_bytes_after_a_kill(alone: Stage) -> None:
    from keeper_worker.sums.privacy import NoiseRules
    from warren_shared.config.client_privacy import privacy as parsed

    noise = NoiseRules(parsed(SPEC), 9, 5)
    scale = noise.promise.mask_scale(noise.calibration(ELEMENTS, None), 1)
    change: dict[str, Any] = {"scale": scale, "clip": 0.5, "weights": [1]}
    alone.terms = alone.terms.model_copy(update=change)
    words = ("--privacy", SPEC, "--rounds", "9", "--quorum", "5")
    alone.start(*words)
    told = {"privacy": noise.terms}
    for number in (1, 2):
        alone.send(*(alone.seed(client, number - 1, **told) for client in THREE))
        before = sum_of(alone.ask(alone.request(number, *THREE, **told)))
        assert before != masks(THREE, number - 1, 1)
        alone.keepers[-1].kill()
        alone.start(*words)
        assert sum_of(alone.ask(alone.request(number, *THREE, **told))) == before


@pytest.mark.slow
def test_killed_again_and_again_it_reveals_one_set_for_a_version(alone: Stage) -> None:
    rng = np.random.default_rng(int(os.environ.get("SEED", "0")))
    for number in range(1, int(os.environ.get("KILLS", "20")) + 1):
        worker = alone.start()
        alone.send(*(alone.seed(client, number - 1) for client in KNOWN))
        clients = tuple(rng.permutation(KNOWN)[: rng.integers(3, 5)].tolist())
        alone.put(alone.request(number, *clients))
        try:
            worker.process.wait(float(rng.exponential(0.02)))
        except Exception:  # noqa: BLE001  it runs on, as it should
            worker.kill()
        alone.start()
        first = alone.answer(number)
        assert isinstance(first, tuple)
        assert first[0].rounds == number
        assert first[1] == masks(clients, number - 1)
        others = alone.ask(alone.request(number, *KNOWN[: 7 - len(clients)]))
        while isinstance(others, tuple):  # the first answer twice, since it was not acknowledged
            assert others[1] == first[1]
            others = alone.answer(number)
        assert refusal(others).reason == "version"
        alone.keepers[-1].kill(signal.SIGTERM if number % 2 else signal.SIGKILL)
