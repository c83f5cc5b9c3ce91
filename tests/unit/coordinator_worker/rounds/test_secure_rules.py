"""What a run of masked updates asks of the other settings."""

import base64
from typing import Any

import numpy as np
import pytest

from coordinator_worker.rounds.policy import Policy
from coordinator_worker.rounds.privacy_rules import PrivacyRules
from coordinator_worker.rounds.secure_rules import SecureRules, weights_of
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.training_state import State
from warren_shared.errors import ConfigError, Rejected
from warren_shared.protocol.messages import FigureNames
from warren_shared.tensors.layout import Layout, Weights

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
KEYS = {
    "keeper_key": KEY, "keeper_verify_key": KEY, "signing_keys": KEY, "decrypt_keys": KEY,
}  # fmt: skip
ASKED = "clip=2,examples=100"
MODEL = Weights.of([np.zeros((3, 4), np.float32)])


def settings(**more: Any) -> CoordinatorSettings:
    told = {"broker_url": "amqp://coordinator:x@h/f", "quorum": 4, "secure": ASKED, **KEYS, **more}
    return CoordinatorSettings(**told)


def rules(**more: Any) -> SecureRules:
    found = SecureRules.from_settings(settings(**more), None)
    assert found is not None
    return found


REFUSED = {
    "a run in clear": ({"secure": None}, "its clients send nothing in clear"),
    "no keeper": ({"keeper_key": None, "keeper_verify_key": None}, "names none"),
    "a small quorum": ({"quorum": 2}, "raise the quorum"),
    "no cap": ({"secure": "clip=2"}, "add examples=N"),
    "no clip": ({"secure": "examples=5"}, "needs clip"),
    "a clip of none": ({"secure": "clip=0"}, "above 0"),
    "alone": ({"secure": "clip=2,least=1"}, "a sum of 2 or more"),
    "a ring of none": ({"secure": "clip=2,ring=24"}, "16 or 32"),
    "too many examples": ({"secure": "clip=2,examples=9999999"}, "from 1 to 1,048,576"),
    "a robust rule": ({"aggregator": "median"}, "compares single updates"),
    "krum": ({"aggregator": "krum"}, "compares single updates"),
    "fednova": ({"aggregator": "fednova"}, "only its client knows"),
    "by participation": ({"aggregator": "by-participation"}, "single out one client's update"),
    "codes": ({"uplink": "1bit"}, "sums of such codes mean nothing"),
    "control variates": ({"scaffold": True}, "not masked"),
    "a clip at the coordinator": ({"clip_norm": 1.0}, "nobody sees the norm"),
    "a bound at the coordinator": ({"max_update_norm": "3"}, "nobody sees the norm"),
    "late ones in 16 bits": ({"secure": f"{ASKED},ring=16", "max_staleness": 1}, "room of ring=32"),
    "no keys": ({"signing_keys": None}, "needs the coordinator's keys"),
    "a key of none": ({"keeper_key": "x"}, "WARREN_KEEPER_KEY holds no key"),
}


@pytest.mark.parametrize(("more", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_masked_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SecureRules.from_settings(settings(**more), None)


def test_without_either_nothing_is_masked() -> None:
    told = settings(secure=None, keeper_key=None, keeper_verify_key=None)
    assert SecureRules.from_settings(told, None) is None


@pytest.mark.parametrize("quorum", [50_000])
def test_sums_need_room(quorum: int) -> None:
    with pytest.raises(ConfigError, match="lower --quorum"):
        rules(quorum=quorum).limb  # noqa: B018
    with pytest.raises(ConfigError, match="use ring=32"):
        rules(quorum=400, secure=f"{ASKED},ring=16").limb  # noqa: B018


def test_weights_of_late_updates_are_powers_of_two_and_no_larger_than_they_have_to_be() -> None:
    assert weights_of(settings()) == (1,)
    assert weights_of(settings(max_staleness=4, staleness_exponent=0.0)) == (1,) * 5
    assert weights_of(settings(max_staleness=3, staleness_exponent=1.0)) == (4, 2, 1, 1)
    far = weights_of(settings(max_staleness=200, staleness_exponent=1.0))
    assert (far[0], far[-1], len(far)) == (16, 1, 201)
    assert sorted(far, reverse=True) == list(far)
    assert weights_of(settings(max_staleness=3, staleness_hinge=2, staleness_exponent=1.0)) == (
        2, 2, 2, 1,
    )  # fmt: skip


def test_what_clients_are_told_has_room_for_all() -> None:
    found = rules(max_staleness=3, staleness_exponent=1.0)
    terms = found.terms(State("f", "ab" * 4, 0, MODEL, {}))
    assert (terms.ring, terms.least, terms.examples, terms.clip) == (32, 3, 100, 2.0)
    assert 8 * terms.weights[0] * 2**terms.limb <= 2**31  # twice the quorum
    assert terms.scale * 2.0 <= 2**terms.limb


def test_a_model_with_statistics_is_refused() -> None:
    layout = Layout.of([np.zeros(3, np.float32)], roles=["statistic"])
    with pytest.raises(ConfigError, match="use GroupNormalization"):
        rules().check_layout(layout)


PROMISE = "correlated:epsilon=2,delta=1e-3,clip=1,contributions=2,distance=2,small=true"


def test_with_noise_the_steps_are_those_that_the_noise_is_made_for(tmp_path: Any) -> None:
    np.savez(tmp_path / "m.npz", np.zeros(12, np.float32))
    told = settings(privacy=PROMISE, rounds=6, initial_model=tmp_path / "m.npz", max_staleness=3,
                    staleness_exponent=1.0)  # fmt: skip
    promised = PrivacyRules.from_settings(told)
    assert promised is not None
    found = SecureRules.from_settings(told, promised)
    assert found is not None
    state = promised.begin(State("f", "ab" * 4, 0, MODEL, {}))
    terms = found.terms(state)
    unit = promised.noise(state).calibration.unit
    assert terms.clip == 1.0
    assert terms.examples == 1
    longest = terms.scale * 1.0 + np.sqrt(12) / 2  # with its roundings
    assert 0.99 * unit < longest * terms.weights[0] <= unit
    with pytest.raises(Rejected, match="private"):
        found.check_figures(FigureNames(metrics=["loss"]))


def test_a_round_closes_with_updates_of_several_users() -> None:
    found = rules()
    policy = Policy(quorum=4, min_quorum=2, secure=found)
    assert not policy.closes(9, ["a.1", "a.2", "b", "b"])
    assert policy.closes(4, ["a.1", "a.2", "b", "c"])
    assert not policy.closes(3, ["a", "b", "c"])
    assert policy.closes(3, ["a", "b", "c"], overdue=True)


def test_room_is_kept_for_the_users_that_are_missing() -> None:
    found = rules()  # 8 at most, of 3 users
    assert found.has_room("a", 5, ["a"])
    assert not found.has_room("a.1", 6, ["a"])
    assert found.has_room("b", 6, ["a"])
    assert not found.has_room("b", 7, ["a", "b"])
    assert found.has_room("c", 7, ["a", "b.2"])


def test_late_updates_weigh_as_the_table_says_and_clear_ones_are_refused() -> None:
    found = rules(max_staleness=3, staleness_exponent=1.0)
    policy = Policy(quorum=4, max_staleness=3, secure=found)
    assert [policy.staleness_weight(7, base) for base in (7, 6, 5, 4)] == [4, 2, 1, 1]
    policy.check_encoding("ring32")
    for encoding in ("raw", "ring16", "1bit"):
        with pytest.raises(Rejected, match="masked updates alone"):
            policy.check_encoding(encoding)
