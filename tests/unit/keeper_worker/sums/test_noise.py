"""Noise of differential privacy in what is given away: enough, the same again, and never twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keeper_worker.ledger.slots import PREFIX
from keeper_worker.sums.privacy import NoiseRules
from keeper_worker.sums.rules import Refused
from tests.support.masking import (
    ELEMENTS,
    TERMS,
    Desk,
    integers,
    request_of,
    row_of,
    seed_of,
    transfer_of,
)
from warren_shared.config.client_privacy import privacy
from warren_shared.errors import ConfigError
from warren_shared.privacy.mask import add_mask
from warren_shared.protocol.messages import MaskTerms, Unmask

ROUNDS, QUORUM = 12, 30
SPEC = "epsilon=4,delta=1e-5,clip=0.5,contributions=4,distance=2,small=true"
CORRELATED = NoiseRules(privacy(f"correlated:{SPEC}"), ROUNDS, QUORUM)
GAUSSIAN = NoiseRules(privacy(f"gaussian:{SPEC}"), ROUNDS, QUORUM)
FIVE = ("alfa", "bravo", "charlie", "delta", "echo")
GROUPS = (FIVE, ("golf", "hotel", "india"))


def terms_of(noise: NoiseRules, weights: tuple[int, ...] = (1, 1, 1)) -> MaskTerms:
    scale = noise.promise.mask_scale(noise.calibration(ELEMENTS, None), weights[0])
    return TERMS.model_copy(
        update={"scale": scale, "clip": noise.promise.clip, "weights": list(weights)}
    )


class Private:
    """A desk with noise, whose clients are told so."""

    def __init__(self, folder: Path, noise: NoiseRules = CORRELATED, **change: Any) -> None:
        self.noise, self.terms = noise, terms_of(noise).model_copy(update=change)
        self.desk = Desk(folder, noise=noise)

    def request(self, version: int, *clients: Any, **change: Any) -> Unmask:
        told = {"secure": self.terms, "privacy": self.noise.terms} | change
        for client, base in [c if isinstance(c, tuple) else (c, version - 1) for c in clients]:
            self.desk.send(seed_of(client, base, secure=told["secure"], privacy=told["privacy"]))
        return request_of(version, *clients, **told)

    def added(self, version: int, *clients: Any) -> Any:
        """What a sum of updates has added to it, as signed integers."""
        return self.noise_in(self.desk.ask(self.request(version, *clients)), version, *clients)

    def noise_in(self, answer: bytes, version: int, *clients: Any) -> Any:
        masks = np.zeros(ELEMENTS, np.uint32)
        for client in clients:
            add_mask(masks, bytes.fromhex(seed_of(client, version - 1).seed))
        return (masks - integers(answer)).view(np.int32).astype(np.int64)


def reason_of(private: Private, version: int, *clients: Any, **change: Any) -> str:
    with pytest.raises(Refused) as raised:
        private.desk.ask(private.request(version, *clients, **change))
    return raised.value.reason


@pytest.mark.parametrize("noise", [CORRELATED, GAUSSIAN], ids=["correlated", "gaussian"])
def test_the_noise_is_as_large_as_promised(tmp_path: Path, noise: NoiseRules) -> None:
    found = Private(tmp_path, noise).added(1, *FIVE)
    assert np.std(found) == pytest.approx(noise.calibration(ELEMENTS, None).sigma, rel=0.08)


def test_noise_takes_back_that_of_the_rounds_before(tmp_path: Path) -> None:
    private = Private(tmp_path)
    rounds = [private.added(n + 1, *GROUPS[n % 2]) for n in range(6)]
    correlation = private.noise.calibration(ELEMENTS, None).correlation
    kept = np.zeros(ELEMENTS, np.int64)
    for noise in rounds:  # z is what independent noise would be
        drawn = noise + np.rint(correlation.omega * kept).astype(np.int64)
        sigma = private.noise.calibration(ELEMENTS, None).sigma
        assert np.std(drawn) == pytest.approx(sigma, rel=0.1)
        kept = np.rint(correlation.theta * kept).astype(np.int64) + noise
    assert np.corrcoef(rounds[0], rounds[1])[0, 1] < -0.2


@pytest.mark.parametrize("noise", [CORRELATED, GAUSSIAN], ids=["correlated", "gaussian"])
def test_the_same_request_gets_the_same_noise_also_from_another_process(
    tmp_path: Path, noise: NoiseRules
) -> None:
    private = Private(tmp_path, noise)
    for version in range(1, 5):
        request = private.request(version, *GROUPS[version % 2])
        first = private.desk.ask(request)
        assert private.desk.ask(request) == first
        private.desk = private.desk.restarted()
        turned = request.model_copy(update={"updates": request.updates[::-1]})
        assert private.desk.ask(turned) == first
    files = list(tmp_path.glob(f"{PREFIX}*"))
    assert len(files) == (2 if noise is CORRELATED else 0)


def test_a_crash_before_the_ledger_gives_another_set_other_noise(tmp_path: Path) -> None:
    """What the first one drew was seen by nobody; the next round goes on from the second."""
    private = Private(tmp_path)
    private.added(1, *FIVE)
    lost = private.request(2, *GROUPS[1])
    journal = private.desk.journal

    def crash(_entry: Any) -> None:
        raise KeyboardInterrupt

    journal.append = crash  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        private.desk.ask(lost)
    private.desk = private.desk.restarted()
    others = ("juliett", "kilo", "lima")
    found = private.added(2, *others)
    assert private.desk.ask(private.request(2, *others))
    private.added(3, *FIVE)
    assert np.std(found) > 0


def test_two_sums_have_different_noise(tmp_path: Path) -> None:
    first = Private(tmp_path / "a", GAUSSIAN).added(1, *FIVE)
    other = Private(tmp_path / "b", GAUSSIAN).added(1, *FIVE)
    assert not np.array_equal(first, other)  # of another keeper's secret
    private = Private(tmp_path / "c", GAUSSIAN)
    assert not np.array_equal(private.added(1, *FIVE), private.added(2, *GROUPS[1]))


def test_figures_are_not_revealed(tmp_path: Path) -> None:
    private = Private(tmp_path)
    told = {"secure": private.terms, "privacy": CORRELATED.terms}
    private.desk.send(*(seed_of(client, figures=7, **told) for client in FIVE))  # type: ignore[arg-type]
    assert private.desk.plan(request_of(1, *FIVE, **told)).groups == ()


@pytest.mark.parametrize(
    "change",
    [{"scale": 2.0**20}, {"clip": 1.0}, {"examples": 8}, {"ring": 16}, {"weights": [2, 1]}],
)
def test_other_masks_than_the_noise_is_made_for(tmp_path: Path, change: dict[str, Any]) -> None:
    assert reason_of(Private(tmp_path, **change), 1, *FIVE) == "privacy"


def test_the_scale_leaves_room_for_the_largest_weight(tmp_path: Path) -> None:
    private = Private(tmp_path, **terms_of(CORRELATED, (4, 2, 1)).model_dump())
    assert private.terms.scale == pytest.approx(terms_of(CORRELATED).scale / 4, rel=0.01)
    private.desk.ask(private.request(1, *FIVE))


def test_other_terms_than_the_keeper_was_told(tmp_path: Path) -> None:
    private = Private(tmp_path)
    for change in ({"epsilon": 8.0}, {"rounds": ROUNDS + 1}, {"contributions": 5}):
        terms = CORRELATED.terms.model_copy(update=change)
        clients = [f"x{change!s:.5}".encode().hex() + str(n) for n in range(3)]
        assert reason_of(private, 1, *clients, privacy=terms) == "privacy"
    assert reason_of(private, 1, "mike", "november", "oscar", privacy=None) == "privacy"


def test_more_updates_than_the_noise_is_made_for(tmp_path: Path) -> None:
    many = [f"client{number}" for number in range(QUORUM + 1)]
    assert reason_of(Private(tmp_path), 1, *many) == "privacy"


def test_more_rounds_than_the_noise_is_made_for(tmp_path: Path) -> None:
    private = Private(tmp_path)
    for version in range(1, ROUNDS + 1):
        private.added(version, *(f"{name}{version}" for name in FIVE))
    last = private.request(ROUNDS, *(f"{name}{ROUNDS}" for name in FIVE))
    private.desk.ask(last)  # once more
    assert reason_of(private, ROUNDS + 1, *FIVE) == "privacy"


def test_a_client_too_soon_or_too_often(tmp_path: Path) -> None:
    private = Private(tmp_path)
    private.added(1, *FIVE)
    assert reason_of(private, 2, *FIVE[:3]) == "early"
    private.added(2, *GROUPS[1])
    for version in (3, 5, 7):
        private.added(version, *FIVE)
        private.added(version + 1, *(f"{name}{version}" for name in FIVE))
    request = private.request(9, *FIVE[:3])
    private.desk = private.desk.restarted()
    with pytest.raises(Refused) as raised:
        private.desk.ask(request)
    assert raised.value.reason == "spent"
    assert raised.value.transfers == [transfer_of(client, 8) for client in FIVE[:3]]


def test_a_client_with_two_updates_in_one_sum(tmp_path: Path) -> None:
    private = Private(tmp_path)
    assert reason_of(private, 2, "alfa", ("alfa", 0), "bravo", "charlie") == "early"


def test_a_keeper_that_has_lost_its_noise_gives_no_sum_without(tmp_path: Path) -> None:
    private = Private(tmp_path)
    private.added(1, *FIVE)
    path = next(tmp_path.glob(f"{PREFIX}*"))
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match="damaged"):
        private.desk.ask(private.request(2, *GROUPS[1]))
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        private.desk.ask(private.request(2, *GROUPS[1]))


def test_a_run_is_private_from_the_first_sum_to_the_last_or_not_at_all(tmp_path: Path) -> None:
    private = Private(tmp_path / "a")
    private.added(1, *FIVE)
    private.desk.rules = Desk(tmp_path / "b").rules
    assert reason_of(private, 2, *GROUPS[1], privacy=None) == "privacy"
    with pytest.raises(Refused, match="privacy"):
        private.desk.ask(private.request(1, *FIVE))
    plain = Desk(tmp_path / "c")
    plain.send(*(seed_of(client) for client in FIVE))
    plain.ask(request_of(1, *FIVE))
    later = Private(tmp_path / "d")
    later.desk.journal = plain.journal
    assert reason_of(later, 2, *GROUPS[1]) == "privacy"


def test_rows_of_another_weight_than_the_noise_is_made_for(tmp_path: Path) -> None:
    private = Private(tmp_path)
    rows = [row_of(c, 0, 1, [1]).model_copy(update={"weight": 2}) for c in FIVE]
    assert reason_of(private, 1, *FIVE, updates=rows) == "weight"
