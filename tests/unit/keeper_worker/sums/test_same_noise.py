"""Noise of the keeper under masks, and noise at the coordinator: the same integers, bit for bit."""

from collections.abc import Iterator

import numpy as np

from coordinator_worker.aggregation.aggregators import Contribution
from coordinator_worker.aggregation.masked_cohort import MaskedCohort, Masking
from coordinator_worker.aggregation.private_cohort import PrivateCohort, RoundNoise
from coordinator_worker.aggregation.stack import MemoryRow
from warren_shared.config.client_privacy import privacy
from warren_shared.privacy.mask import add_mask, new_seed
from warren_shared.privacy.noise import BLOCK, DiscreteGaussian, KeyStream
from warren_shared.protocol.masking import code_of
from warren_shared.protocol.messages import MaskTerms
from warren_shared.tensors.layout import Weights, bytes_of
from warren_shared.tensors.ring import elements

RUN = "ab" * 4
QUORUM = 3
ROUNDS = 4
KEY = bytes(range(32))
PROMISE = privacy("correlated:epsilon=8,delta=1e-3,clip=1,contributions=4,distance=1,small=true")
RNG = np.random.default_rng(5)
SHAPES = [(70, 33), (33,), (1, 5)]


class FixedStream(RoundNoise):
    """Noise whose random words are told."""

    def stream(self, context: str, total: Weights) -> KeyStream:
        return KeyStream(context.encode())


class Masked:
    def __init__(self, delta: Weights, terms: MaskTerms, masks: np.ndarray) -> None:
        code = code_of(terms, delta.layout, RUN)
        integers = np.empty(code.elements, np.uint32)
        assert code.encode(delta, 1.0, integers) == 0
        seed = new_seed()
        add_mask(integers, seed)
        add_mask(masks, seed)
        self._data = memoryview(integers.tobytes())

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        yield 0, self._data

    def read(self, start: int, into: memoryview) -> None:
        raise AssertionError

    def release(self) -> None:
        pass


def update() -> Weights:
    """Of a norm just below the clip."""
    parts = [RNG.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    norm = np.sqrt(sum(float((part.astype(np.float64) ** 2).sum()) for part in parts))
    return Weights.of([part * np.float32(0.99 / norm) for part in parts])


def test_both_ways_come_to_the_same_bytes() -> None:
    layout = update().layout
    size = elements(layout, 32)
    calibration = PROMISE.calibration(ROUNDS, QUORUM, size)
    noise = FixedStream(calibration, 1.0, KEY)
    terms = MaskTerms(
        keeper="cafecafe", least=3, ring=32, scale=PROMISE.mask_scale(calibration, 1), clip=1.0,
        weights=[1], examples=1, limb=28,
    )  # fmt: skip
    slot = Weights.empty(layout)
    kept = np.zeros(size, np.int64)
    gaussian = DiscreteGaussian(calibration.sigma)
    for number in range(ROUNDS):
        key = f"{number:032d}"
        deltas = [update() for _ in range(QUORUM)]
        clear = PrivateCohort(layout, noise)
        masks = np.zeros(size, np.uint32)
        masked = MaskedCohort(layout, Masking(terms, RUN, fixed_divisor=QUORUM))
        for delta in deltas:
            clear.take(Contribution(1, 1.0, 0.99), MemoryRow(delta))
            masked.take(Masked(delta, terms, masks), 1, None)
        stream = KeyStream(key.encode())
        for first in range(0, size, BLOCK):
            here = masks[first : first + BLOCK]
            drawn = gaussian.draw(stream, here.size)
            drawn = calibration.correlation.correlated(drawn, kept[first : first + BLOCK])
            np.subtract(here, drawn.astype(np.uint32), out=here)
        masked.begin_unmasking([])
        masked.subtract(0, memoryview(masks.tobytes()))
        masked.finish()
        ours, theirs = masked.delta().total, clear.delta(slot, key).total
        assert bytes_of(ours.buffer) == bytes_of(theirs.buffer)
        assert np.abs(ours[0]).max() > 0.01
