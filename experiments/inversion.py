"""What can be seen of a client's images in its update, and in a sum that has it.

``python -m experiments.inversion --data FOLDER``: clients with one image of Fashion-MNIST each
train a network of 784, 200 and 10 units by one gradient step. Of a hidden unit that one image alone
activates, the gradient of its weights over that of its bias is that image (Phong et al. 2018,
"Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", section 3): the attacker
takes all units' quotients, and for each image the nearest one. What it sees: the update in clear;
as the coordinator gets it, masked; the sum of three, as secure aggregation tells it; and that sum
with the keeper's noise. Noise alone says what 200 blind guesses come to.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from math import log10
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from client_worker.models import mlp
from experiments.command import run
from experiments.data import Array, fashion_mnist
from experiments.pictures import Panel
from experiments.report import Findings, Table
from warren_shared.config.client_privacy import privacy
from warren_shared.privacy.mask import add_mask, new_seed
from warren_shared.privacy.noise import BLOCK, DiscreteGaussian, KeyStream
from warren_shared.tensors.layout import Weights
from warren_shared.tensors.ring import RingCode, dtype_of, largest_scale, limb_bits

SIZES: Final = (784, 200, 10)
RATE: Final = 0.1
TOGETHER: Final = 3
QUORUM: Final = 8
CLIP: Final = 0.5
PROMISE: Final = f"gaussian:epsilon=2,delta=1e-5,clip={CLIP},small=true"
NEAR_DB: Final = 25.0  # an image is recovered
BLIND_DB: Final = 12.0  # as near as a guess of the mean image is
SMALLEST: Final = 1e-12
NOISED: Final = "the sum of three with the keeper's noise"

Seen = Mapping[str, list[float]]


def update(image: Array, label: Array) -> Weights:
    """One gradient step from the network's first weights."""
    model = mlp(SIZES, batch_size=1)
    before = Weights.of([array.copy() for array in model.get_weights()])
    model.fit((image, label), RATE)
    after = model.get_weights()
    return Weights.of([new - old for new, old in zip(after, before, strict=True)])


def code(layout_of: Weights) -> RingCode:
    """Integers of a ring in which sums of QUORUM updates have room."""
    limb = limb_bits(32, QUORUM, 1)
    scale = largest_scale(layout_of.layout, 32, CLIP, limb, 1)
    return RingCode(layout_of.layout, 32, scale, limb, "ab" * 4)


def masked(delta: Weights) -> Weights:
    """What the coordinator can make of one update."""
    one = code(delta)
    integers = np.empty(one.elements, dtype_of(32))
    one.encode(delta, 1.0, integers)
    add_mask(integers, new_seed())
    return _decoded(one, integers)


def together(deltas: Sequence[Weights]) -> Weights:
    """The sum, once the keeper has taken the masks off."""
    one = code(deltas[0])
    total = np.zeros(one.elements, dtype_of(32))
    masks = np.zeros_like(total)
    for delta in deltas:
        integers, seed = np.empty_like(total), new_seed()
        one.encode(delta, 1.0, integers)
        add_mask(integers, seed)
        add_mask(masks, seed)
        total += integers
    return _decoded(one, total - masks)


def noised(deltas: Sequence[Weights], key: bytes) -> Weights:
    """The sum with the noise that the keeper adds, at epsilon 2 for one round."""
    promise = privacy(PROMISE)
    size = code(deltas[0]).elements
    calibration = promise.calibration(1, QUORUM, size)
    scale = promise.mask_scale(calibration, 1)
    one = RingCode(deltas[0].layout, 32, scale, 31, "ab" * 4)
    total = np.zeros(size, dtype_of(32))
    for delta in deltas:
        integers = np.empty_like(total)
        one.encode(_clipped(delta), 1.0, integers)
        total += integers
    stream, gaussian = KeyStream(key), DiscreteGaussian(calibration.sigma)
    for first in range(0, size, BLOCK):
        here = total[first : first + BLOCK]
        here += gaussian.draw(stream, here.size).astype(here.dtype)
    return _decoded(one, total)


def _clipped(delta: Weights) -> Weights:
    length = max(float(np.sqrt(sum(float((tensor**2).sum()) for tensor in delta))), CLIP)
    return Weights.of([tensor * np.float32(CLIP / length) for tensor in delta])


def _decoded(one: RingCode, integers: Array) -> Weights:
    found = Weights.empty(one.layout)
    one.decode(integers, 0, 1.0, found)
    return found


def recovered(seen: Weights, images: Array) -> list[float]:
    """PSNR in dB of the attacker's best guess of each image."""
    weights, bias = np.asarray(seen[0], np.float64), np.asarray(seen[1], np.float64)
    told = np.abs(bias) > SMALLEST
    if not told.any():
        return [0.0] * len(images)
    guesses = np.clip((weights[:, told] / bias[told]).T, 0, 1)
    errors = [float(((guesses - image) ** 2).mean(axis=1).min()) for image in images]
    return [10 * log10(1 / max(error, SMALLEST)) for error in errors]


def attacked(x: Array, y: Array, trials: int) -> Seen:
    """What is seen of the first of three clients' images, in each trial."""
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for trial in range(trials):
        mine = slice(trial * TOGETHER, (trial + 1) * TOGETHER)
        images, labels = x[mine], y[mine]
        deltas = [update(images[[k]], labels[[k]]) for k in range(TOGETHER)]
        for name, way in WAYS.items():
            found[name] += recovered(way(deltas, trial), images[:1])
    return found


WAYS: Final[Mapping[str, Callable[[Sequence[Weights], int], Weights]]] = {
    "an update in clear": lambda deltas, _trial: deltas[0],
    "a masked update": lambda deltas, _trial: masked(deltas[0]),
    "the sum of three": lambda deltas, _trial: together(deltas),
    NOISED: lambda deltas, trial: noised(deltas, trial.to_bytes(32, "big")),
    "that noise alone": lambda deltas, trial: noised(
        [Weights.empty(deltas[0].layout)], (1000 + trial).to_bytes(32, "big")
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """The attack on each way in which an update is seen."""
    trials = 4 if short else 100
    images = fashion_mnist(data, trials * TOGETHER, 10)
    seen = attacked(images.x, images.y, trials)
    rows: list[list[str | float | None]] = [
        [name, median(found), max(found), f"{sum(one > NEAR_DB for one in found)} of {trials}"]
        for name, found in seen.items()
    ]
    of_masked, of_noised = max(seen["a masked update"]), max(seen[NOISED])
    return Findings(
        "inversion",
        "What can be seen of one image in an update, and in a sum",
        {"network": list(SIZES), "images a client": 1, "clients in a sum": TOGETHER,
         "trials": trials, "noise": PROMISE},
        [Table(
            "Best guess of the first client's image", ("seen", "PSNR, median", "PSNR, best of all",
             f"recovered (above {NEAR_DB:g} dB)"), rows,
        )],
        [Panel("each trial", "trial, sorted", "PSNR in dB", {
            name: ([float(k) for k in range(trials)], sorted(found)) for name, found in seen.items()
        })],
        {
            f"a masked update: {BLIND_DB:g} dB at most": f"{of_masked:.1f} dB",
            f"the sum of three with noise: {BLIND_DB:g} dB at most": (
                f"median {median(seen[NOISED]):.1f} dB, the best of {trials} {of_noised:.1f} dB"
            ),
            "the honest row, the sum of three": f"median {median(seen['the sum of three']):.0f} dB",
        },
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
