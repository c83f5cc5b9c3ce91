"""A sum of masked updates: noise before the masks are off, and exact after."""

from collections.abc import Iterator

import numpy as np
import pytest

from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from coordinator_worker.aggregation.masked_cohort import MaskedCohort, Masking
from coordinator_worker.aggregation.optimizers import Diverged
from tests.support.models import Holder
from warren_shared.errors import ConfigError
from warren_shared.naming import CHUNK_BYTES
from warren_shared.privacy.mask import FIGURES, add_mask, new_seed
from warren_shared.protocol.masking import (
    code_of,
    names_digest,
    names_of,
    weight_integers,
)
from warren_shared.protocol.messages import FigureNames, FigureSum, MaskTerms
from warren_shared.tensors.layout import Layout, Weights
from warren_shared.tensors.masked_figures import Told, encode, figures_of
from warren_shared.tensors.ring import dtype_of, largest_scale, limb_bits

RNG = np.random.default_rng(7)
SMALL = Layout.of([np.zeros((3, 4), np.float32), np.zeros(5, np.float64)])
LARGE = Layout.of([np.zeros(199_210, np.float32)])
RUN = "ab" * 4


def terms(layout: Layout, *, updates: int, examples: int = 1, weight: int = 1) -> MaskTerms:
    limb = limb_bits(32, updates, weight)
    return MaskTerms(
        keeper="cafecafe", least=3, ring=32, scale=largest_scale(layout, 32, 1.0, limb, weight),
        clip=1.0, weights=[weight], examples=examples, limb=limb,
    )  # fmt: skip


class Arrived:
    """A masked update as the coordinator has it, and what its client keeps to itself."""

    def __init__(self, delta: Weights, given: MaskTerms, told: Told | None, examples: int) -> None:
        code = code_of(given, delta.layout, RUN)
        self.integers = np.empty(code.elements, dtype_of(given.ring))
        code.encode(delta, min(examples, given.examples) / given.examples, self.integers)
        weight = np.array(weight_integers(given, examples), np.uint32)
        figures = encode(told, given.limb, given.ring) if told is not None else weight[:0]
        self.names = names_of(figures_of(told)) if told is not None else None
        self.seed = new_seed()
        self.core = np.concatenate([self.integers, weight])
        self.tail = figures.copy()
        masked = [self.core.copy(), figures.copy()]
        add_mask(masked[0], self.seed)
        add_mask(masked[1], self.seed, stream=FIGURES)
        self._bytes = memoryview(np.concatenate(masked)).cast("B")
        self.released = False

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        for start in range(0, len(self._bytes), CHUNK_BYTES):
            yield start, self._bytes[start : start + CHUNK_BYTES]

    def read(self, start: int, into: memoryview) -> None:
        raise AssertionError

    def release(self) -> None:
        self.released = True


def masks(updates: list[Arrived], weights: list[int], names: FigureNames | None) -> bytes:
    core = np.zeros_like(updates[0].core)
    tail = np.zeros_like(updates[0].tail)
    for one, weight in zip(updates, weights, strict=True):
        add_mask(core, one.seed, weight)
        add_mask(tail, one.seed, stream=FIGURES)
    return core.tobytes() + (tail.tobytes() if names is not None else b"")


def figure_sum(one: Arrived, updates: int) -> FigureSum:
    assert one.names is not None
    return FigureSum(names=names_digest(one.names), updates=updates, elements=one.tail.size)


def unmask(cohort: MaskedCohort, updates: list[Arrived], weights: list[int]) -> None:
    names = updates[0].names
    data = masks(updates, weights, names)
    sums = [figure_sum(updates[0], len(updates))] if names else []
    assert cohort.begin_unmasking(sums) == len(data)
    for start in range(0, len(data), CHUNK_BYTES):
        cohort.subtract(start, memoryview(data)[start : start + CHUNK_BYTES])
    cohort.finish()


def random_delta(layout: Layout) -> Weights:
    found = Weights.empty(layout)
    for tensor in found:
        tensor[...] = RNG.standard_normal(tensor.shape) * 0.001
    return found


def test_the_sum_is_that_of_the_integers_in_clear_bit_for_bit() -> None:
    given = terms(LARGE, updates=100)
    deltas = [random_delta(LARGE) for _ in range(5)]
    updates = [Arrived(deltas[k % 5], given, None, 1) for k in range(100)]
    cohort = MaskedCohort(LARGE, Masking(given, RUN))
    for one in updates:
        assert cohort.take(one, 1, None) == 1
        assert one.released
    clear = sum(one.integers.view(np.int32).astype(np.int64) for one in updates)
    hidden = cohort._total.view(np.int32).astype(np.int64)
    assert np.count_nonzero(hidden == clear) < 5  # noise, until the masks are off
    unmask(cohort, updates, [1] * 100)
    assert (cohort._total.view(np.int32) == clear).all()
    mean = cohort.delta()
    expected = sum(d[0] for d in deltas) / 5
    assert np.abs(mean.total[0] - expected).max() < 1e-6


@pytest.mark.parametrize("counts", [False, True])
def test_weights_of_examples_and_of_lateness_are_those_of_updates_in_clear(counts: bool) -> None:
    given = terms(SMALL, updates=8, examples=1 if counts else 50, weight=4)
    deltas = [random_delta(SMALL) for _ in range(3)]
    examples, weights = [10, 40, 90], [4, 2, 1]
    updates = [
        Arrived(delta, given, Told(n, {"loss": float(n)}, None), n)
        for delta, n in zip(deltas, examples, strict=True)
    ]
    cohort = MaskedCohort(SMALL, Masking(given, RUN, counts=counts))
    for one, weight in zip(updates, weights, strict=True):
        cohort.take(one, weight, one.names)
    unmask(cohort, updates, weights)
    believed = [1, 1, 1] if counts else [10, 40, 50]
    factors = [w / 4 * n for w, n in zip(weights, believed, strict=True)]
    divisor = 3 if counts else sum(factors)
    found = cohort.delta()
    for place, tensor in enumerate(found.total):
        expected = sum(f * d[place] for f, d in zip(factors, deltas, strict=True)) / divisor
        assert np.abs(tensor - expected).max() < 1e-5
    (told,) = cohort.told
    assert told.examples == 10 + 40 + 90


def test_a_private_sum_is_divided_by_the_quorum() -> None:
    given = terms(SMALL, updates=8)
    delta = random_delta(SMALL)
    one = Arrived(delta, given, None, 1)
    cohort = MaskedCohort(SMALL, Masking(given, RUN, fixed_divisor=4))
    cohort.take(one, 1, None)
    unmask(cohort, [one], [1])
    assert np.abs(cohort.delta().total[0] * 4 - delta[0]).max() < 1e-5


def test_figures_of_other_names_are_summed_apart_and_may_be_left_out() -> None:
    given = terms(SMALL, updates=8)
    told = [Told(5, {"loss": 1.0}, None), Told(7, {"mae": 2.0}, None), Told(3, {"loss": 3.0}, None)]
    updates = [Arrived(random_delta(SMALL), given, one, 1) for one in told]
    cohort = MaskedCohort(SMALL, Masking(given, RUN))
    for one in updates:
        cohort.take(one, 1, one.names)
    core = np.zeros_like(updates[0].core)
    tail = np.zeros_like(updates[0].tail)
    for one in updates:
        add_mask(core, one.seed)
    for one in (updates[0], updates[2]):
        add_mask(tail, one.seed, stream=FIGURES)
    sums = [figure_sum(updates[0], 2)]
    data = core.tobytes() + tail.tobytes()
    assert cohort.begin_unmasking(sums) == len(data)
    cohort.subtract(0, memoryview(data))
    cohort.finish()
    (found,) = cohort.told
    assert found.examples == 8
    assert found.metrics["loss"] == pytest.approx((5 * 1 + 3 * 3) / 8)


def test_figures_of_other_updates_are_left_out_and_harm_nothing_else() -> None:
    given = terms(SMALL, updates=8)
    one = Arrived(random_delta(SMALL), given, Told(5, {}, None), 1)
    other = FigureSum(names="ab" * 32, updates=1, elements=9)
    for sums in ([figure_sum(one, 2)], [other], [other, figure_sum(one, 2)]):
        again = MaskedCohort(SMALL, Masking(given, RUN))
        again.take(one, 1, one.names)
        size = sum(told.elements for told in sums) * 4 + one.core.nbytes
        assert again.begin_unmasking(sums) == size
        masks = np.zeros_like(one.core)
        add_mask(masks, one.seed)
        again.subtract(0, memoryview(masks.tobytes() + bytes(size - masks.nbytes)))
        again.finish()
        assert not again.told
        assert np.abs(again.delta().total[0]).max() < 1  # the weights are there all the same


def test_weights_that_no_honest_clients_have_are_refused() -> None:
    given = terms(SMALL, updates=8, examples=50)
    cohort = MaskedCohort(SMALL, Masking(given, RUN))
    one = Arrived(random_delta(SMALL), given, None, 10)
    cohort.take(one, 1, None)
    cohort.begin_unmasking([])
    with pytest.raises(Diverged, match="none of honest clients"):
        cohort.delta()  # with its mask on
    with pytest.raises(ConfigError, match="no updates"):
        MaskedCohort(SMALL, Masking(given, RUN)).delta()


def test_a_coordinator_moves_its_model_by_it() -> None:
    given = terms(SMALL, updates=8)
    model = Holder([np.zeros((3, 4), np.float32), np.zeros(5)])
    coordinator = FederatedCoordinator([model])
    deltas = [random_delta(coordinator.weights.layout) for _ in range(3)]
    updates = [Arrived(delta, given, None, 1) for delta in deltas]
    cohort = MaskedCohort(coordinator.weights.layout, Masking(given, RUN))
    for one in updates:
        cohort.take(one, 1, None)
    unmask(cohort, updates, [1] * 3)
    coordinator.send(coordinator.aggregate([cohort]))
    for place, tensor in enumerate(model.get_weights()):
        assert np.abs(tensor - sum(d[place] for d in deltas) / 3).max() < 1e-5
