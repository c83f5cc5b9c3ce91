"""What the keeper refuses: each row of the table would be an attack that works."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keeper_worker.sums.rules import REASONS, Refused, check_origin, revealed
from tests.support.masking import (
    ELEMENTS,
    NAMES,
    RUN,
    TABLE,
    TERMS,
    Desk,
    integers,
    request_of,
    row_of,
    seed_of,
    transfer_of,
)
from warren_shared.privacy.mask import FIGURES, add_mask
from warren_shared.protocol.masking import names_digest
from warren_shared.protocol.messages import PrivacyTerms
from warren_shared.protocol.signing import Signer, Verifier

FOUR = ("alfa", "bravo", "charlie", "delta")
THREE = FOUR[:3]
PROMISE = PrivacyTerms(epsilon=1, delta=1e-5, clip=1, contributions=1, distance=1, rounds=9)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """With the seeds of four clients for the model 0."""
    made = Desk(tmp_path)
    made.send(*(seed_of(client) for client in FOUR))
    return made


def refusal(desk: Desk, *words: Any, **change: Any) -> Refused:
    with pytest.raises(Refused) as raised:
        desk.ask(request_of(*words, **change))
    assert raised.value.reason in REASONS
    assert raised.value.detail
    return raised.value


def mask_of(client: str, base: int = 0, weight: int = 1, **told: int) -> Any:
    total = np.zeros(told.get("elements", ELEMENTS), np.uint32)
    seed = bytes.fromhex(seed_of(client, base).seed)
    add_mask(total, seed, weight, told.get("stream", 0))
    return total


def test_a_set_of_three_gets_the_sum_of_its_masks(desk: Desk) -> None:
    found = integers(desk.ask(request_of(1, *THREE)))
    assert np.array_equal(found, sum(mask_of(client, weight=4) for client in THREE))


def test_late_updates_count_as_their_clients_were_told(desk: Desk) -> None:
    desk.send(*(seed_of(client, 1) for client in FOUR))
    found = integers(desk.ask(request_of(2, ("alfa", 0), "bravo", "charlie")))
    wanted = mask_of("alfa", 0, 2) + mask_of("bravo", 1, 4) + mask_of("charlie", 1, 4)
    assert np.array_equal(found, wanted)


def test_the_same_request_gets_the_same_bytes_whatever_its_order(desk: Desk) -> None:
    first = desk.ask(request_of(1, *THREE))
    assert desk.ask(request_of(1, *THREE)) == first
    assert desk.ask(request_of(1, *reversed(THREE))) == first
    assert desk.restarted().ask(request_of(1, *THREE)) == first


def test_few(desk: Desk) -> None:
    assert refusal(desk, 1, "alfa", "bravo").reason == "few"


def test_few_counts_a_fleet_once(desk: Desk) -> None:
    desk.send(*(seed_of(f"phone.{n}") for n in range(5)))
    replicas = [f"phone.{n}" for n in range(5)]
    assert refusal(desk, 1, *replicas, "alfa").reason == "few"
    desk.ask(request_of(1, *replicas, "alfa", "bravo"))


def test_few_is_the_larger_of_what_both_say(tmp_path: Path, desk: Desk) -> None:
    strict = Desk(tmp_path / "strict", least=4)
    strict.send(*(seed_of(client) for client in FOUR))
    assert refusal(strict, 1, *THREE).reason == "few"
    told = TERMS.model_copy(update={"least": 4})
    other = Desk(tmp_path / "told")
    other.send(*(seed_of(client, secure=told) for client in FOUR))
    assert refusal(other, 1, *THREE, secure=told).reason == "few"


def test_another_set_of_the_same_version(desk: Desk) -> None:
    desk.ask(request_of(1, *THREE))
    refused = refusal(desk, 1, *FOUR)
    assert refused.reason == "version"
    assert refused.transfers == [transfer_of(client, 0) for client in THREE]
    assert refusal(desk, 1, "alfa", "bravo", "delta").reason == "version"


def test_the_same_set_with_other_weights_is_another_set(desk: Desk) -> None:
    desk.ask(request_of(1, *THREE))
    rows = [row_of(client, 0, 1).model_copy(update={"weight": 1}) for client in THREE]
    assert refusal(desk, 1, updates=rows).reason == "version"


def test_an_earlier_version(desk: Desk) -> None:
    desk.send(*(seed_of(client, 1) for client in FOUR))
    desk.ask(request_of(2, *THREE))
    assert refusal(desk, 1, "alfa", "bravo", "delta").reason == "gone"
    with pytest.raises(Refused, match="gone"):
        revealed(request_of(1), desk.journal.history)


def test_an_update_in_two_sets(desk: Desk) -> None:
    desk.ask(request_of(1, *THREE))
    desk.send(*(seed_of(client, 1) for client in FOUR))
    refused = refusal(desk, 2, ("alfa", 0), "bravo", "charlie", "delta")
    assert (refused.reason, refused.transfers) == ("spent", [transfer_of("alfa", 0)])


def test_another_update_of_a_client_and_version_that_are_in_a_set(desk: Desk) -> None:
    desk.ask(request_of(1, *THREE))
    other = transfer_of("alfa", 0, 1)
    desk.send(seed_of("alfa", transfer=other), *(seed_of(c, 1) for c in FOUR))
    rows = [row_of("alfa", 0, 2).model_copy(update={"transfer": other})]
    rows += [row_of(client, 1, 2) for client in FOUR[1:]]
    assert refusal(desk, 2, updates=rows).transfers == [other]


def test_an_update_that_is_there_twice(desk: Desk) -> None:
    assert refusal(desk, 1, *THREE, "alfa").reason == "spent"


def test_what_is_spent_is_known_after_a_restart(desk: Desk) -> None:
    desk.ask(request_of(1, *THREE))
    again = desk.restarted()
    again.send(*(seed_of(client, 1) for client in FOUR))
    assert refusal(again, 2, ("alfa", 0), "bravo", "charlie", "delta").reason == "spent"
    assert refusal(again, 1, *FOUR).reason == "version"


def test_an_update_without_a_seed(desk: Desk) -> None:
    refused = refusal(desk, 1, *THREE, "echo")
    assert (refused.reason, refused.may_pass) == ("missing", True)
    assert refused.transfers == [transfer_of("echo", 0)]


@pytest.mark.parametrize("sender", ["bravo", "coordinator", None])
def test_a_seed_that_another_user_sent(desk: Desk, sender: str | None) -> None:
    taken = desk.seeds.add(seed_of("echo"), sender, 99)
    assert (taken.acknowledged, taken.dropped) == ((99,), "identity")
    refused = refusal(desk, 1, *THREE, "echo")
    assert (refused.reason, refused.may_pass) == ("identity", False)


def test_a_client_that_the_keeper_does_not_know(tmp_path: Path) -> None:
    desk = Desk(tmp_path, known=frozenset(THREE))
    desk.send(*(seed_of(client) for client in FOUR))
    refused = refusal(desk, 1, *FOUR)
    assert (refused.reason, refused.transfers) == ("unknown", [transfer_of("delta", 0)])
    desk.ask(request_of(1, *THREE))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layout": "00" * 8}, "layout"),
        ({"elements": ELEMENTS + 1}, "layout"),
        ({"model": "11" * 32}, "model"),
        ({"terms": "22" * 32}, "terms"),
        ({"run": "99" * 4}, "run"),
        ({"base_version": 1}, "run"),
    ],
)
def test_a_seed_of_something_else(desk: Desk, change: dict[str, Any], reason: str) -> None:
    transfer = transfer_of("echo", 0)
    desk.send(seed_of("echo", **({"transfer": transfer} | change)))
    refused = refusal(desk, 1, *FOUR, "echo")
    assert (refused.reason, refused.transfers) == (reason, [transfer])


def test_another_layout_or_other_terms_than_the_clients_were_told(desk: Desk) -> None:
    assert refusal(desk, 1, *THREE, layout="00" * 8).reason == "layout"
    other = TERMS.model_copy(update={"scale": 1.0})
    assert refusal(desk, 1, *THREE, secure=other).reason == "terms"
    elsewhere = TERMS.model_copy(update={"keeper": "00" * 8})
    assert refusal(desk, 1, *THREE, secure=elsewhere).reason == "keeper"
    rows = [row_of(client, 0, 1) for client in THREE]
    assert refusal(desk, 1, run="99" * 4, updates=rows).reason == "run"


@pytest.mark.parametrize("weight", [1, 2, 8, 16])
def test_weights_of_the_askers_choice(desk: Desk, weight: int) -> None:
    rows = [row_of(client, 0, 1) for client in THREE]
    rows[0] = rows[0].model_copy(update={"weight": weight})
    refused = refusal(desk, 1, updates=rows)
    assert (refused.reason, refused.transfers) == ("weight", [transfer_of("alfa", 0)])


def test_an_update_that_is_too_late_or_too_early(desk: Desk) -> None:
    desk.send(*(seed_of(client, 3) for client in FOUR))
    assert refusal(desk, 4, ("alfa", 0), "bravo", "charlie", "delta").reason == "weight"
    desk.ask(request_of(3, *((client, 0) for client in THREE)))
    assert refusal(desk, 4, ("delta", 0), "alfa", "bravo", "charlie").reason == "weight"
    assert refusal(desk, 4, ("delta", 4), "alfa", "bravo", "charlie").reason == "missing"
    desk.send(seed_of("delta", 4))
    assert refusal(desk, 4, ("delta", 4), "alfa", "bravo", "charlie").reason == "weight"


@pytest.mark.parametrize("table", [[3], [1, 2], [4, 3], [16, 5, 1]])
def test_a_table_of_weights_that_would_tell_more_than_the_sum(
    tmp_path: Path, table: list[int]
) -> None:
    terms = TERMS.model_copy(update={"weights": table})
    desk = Desk(tmp_path)
    desk.send(*(seed_of(client, secure=terms) for client in THREE))
    assert refusal(desk, 1, *THREE, secure=terms).reason == "weight"


def test_a_version_has_one_model_over_all_sets(desk: Desk) -> None:
    desk.ask(request_of(1, *THREE))
    desk.send(seed_of("echo", model="11" * 32), *(seed_of(client, 1) for client in FOUR))
    refused = refusal(desk, 2, ("echo", 0), *FOUR[1:])
    assert (refused.reason, refused.transfers) == ("model", [transfer_of("echo", 0)])
    again = desk.restarted()
    assert refusal(again, 2, ("echo", 0), *FOUR[1:]).reason == "model"


def test_clients_that_were_promised_noise(desk: Desk, tmp_path: Path) -> None:
    other = Desk(tmp_path / "other")
    other.send(*(seed_of(client, privacy=PROMISE) for client in THREE))
    assert refusal(other, 1, *THREE, privacy=PROMISE).reason == "privacy"
    assert refusal(desk, 1, *THREE, privacy=PROMISE).reason == "terms"


def test_a_sum_larger_than_the_keeper_has_memory_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_bytes=4 * ELEMENTS - 1)
    desk.send(*(seed_of(client) for client in THREE))
    assert refusal(desk, 1, *THREE).reason == "layout"


def test_only_what_the_coordinator_signed_is_answered(desk: Desk) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    verifier = Verifier([key.public_key()])
    request = request_of(1, *THREE)
    good = Signer([key]).sign(request)
    check_origin(good, desk.rules, verifier)
    changed = good.model_copy(update={"version": 2})
    for bad in (request, Signer([other]).sign(request), changed):
        with pytest.raises(Refused, match="signature"):
            check_origin(bad, desk.rules, verifier)
    elsewhere = Signer([key]).sign(request_of(1, *THREE, federation="g"))
    with pytest.raises(Refused, match="federation"):
        check_origin(elsewhere, desk.rules, verifier)


def test_a_question_is_answered_with_the_set_in_its_order(desk: Desk) -> None:
    assert revealed(request_of(1), desk.journal.history) == []
    desk.ask(request_of(1, "charlie", "alfa", "bravo"))
    wanted = [transfer_of(client, 0) for client in ("charlie", "alfa", "bravo")]
    assert revealed(request_of(1), desk.restarted().journal.history) == wanted
    assert revealed(request_of(2), desk.journal.history) == []


def test_a_run_and_its_successor_do_not_know_each_other(desk: Desk) -> None:
    desk.ask(request_of(1, *THREE))
    other = "99" * 4
    desk.send(*(seed_of(c, run=other, transfer=transfer_of(c, 0, 7)) for c in THREE))
    rows = [row_of(c, 0, 1).model_copy(update={"transfer": transfer_of(c, 0, 7)}) for c in THREE]
    desk.ask(request_of(1, run=other, updates=rows))
    assert list(desk.journal.history.runs) == [RUN, other]
    assert desk.plan(request_of(1, *THREE)).repeats


def test_figures_are_added_up_where_enough_have_the_same(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    names = names_digest(NAMES)
    desk.send(*(seed_of(client, figures=7) for client in THREE), seed_of("delta"))
    request = request_of(1, "delta", *THREE)
    (group,) = desk.plan(request).groups
    assert (group.told.names, group.told.updates) == (names, 3)
    answer = np.frombuffer(desk.ask(request), np.uint32)
    wanted = sum(mask_of(c, elements=7, stream=FIGURES) for c in THREE)
    assert answer.size == ELEMENTS + 7
    assert np.array_equal(answer[ELEMENTS:], wanted)


def test_figures_of_fewer_than_the_least_are_not_given(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.send(*(seed_of(client, figures=7) for client in FOUR[:2]))
    desk.send(*(seed_of(client) for client in FOUR[2:]))
    assert desk.plan(request_of(1, *FOUR)).groups == ()
    assert len(desk.ask(request_of(1, *FOUR))) == 4 * ELEMENTS


def test_a_ring_of_16_bits(tmp_path: Path) -> None:
    terms = TERMS.model_copy(update={"ring": 16, "weights": TABLE})
    desk = Desk(tmp_path)
    desk.send(*(seed_of(client, secure=terms) for client in THREE))
    answer = desk.ask(request_of(1, *THREE, secure=terms))
    wanted = np.zeros(ELEMENTS, np.uint16)
    for client in THREE:
        add_mask(wanted, bytes.fromhex(seed_of(client).seed), 4)
    assert np.array_equal(np.frombuffer(answer, np.uint16), wanted)
