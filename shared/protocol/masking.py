"""What the three parties of secure aggregation have to agree on, beside the messages themselves."""

import secrets
from collections.abc import Iterable
from typing import Final

import msgpack
from blake3 import blake3

from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import FigureNames, MaskTerms, PrivacyTerms, Unmask
from warren_shared.tensors.layout import Layout
from warren_shared.tensors.masked_figures import Figures
from warren_shared.tensors.ring import Ring, RingCode, from_limbs, limbs, to_limbs

NO_FIGURES: Final = FigureNames()


def terms_digest(secure: MaskTerms, privacy: PrivacyTerms | None) -> str:
    """What a sender was told of masks and noise; the keeper adds up only what was told the same."""
    told = [secure.model_dump(), privacy.model_dump() if privacy is not None else None]
    return blake3(msgpack.packb(told)).hexdigest()


def request_digest(request: Unmask) -> str:
    """What is asked of the keeper: the same for the same updates in whatever order, and terms.

    An answer names it. One that a coordinator did not read before it ended is still in the queue
    when the next asks for another set, and the masks of one set are not those of the other.
    """
    told = request.model_dump(exclude={"signatures", "updates"})
    rows = sorted((u.client, u.base_version, u.transfer, u.weight) for u in request.updates)
    return blake3(msgpack.packb([told, rows])).hexdigest()


def names_digest(names: FigureNames) -> str:
    """Which figures there are; sums are of those that have the same."""
    return blake3(msgpack.packb(names.model_dump())).hexdigest()


def figures_of(names: FigureNames) -> Figures:
    """As they lie behind the weights."""
    return Figures(tuple(names.metrics), tuple(names.means), names.classes, names.scores)


def names_of(figures: Figures) -> FigureNames:
    """As they are told."""
    return FigureNames(
        metrics=list(figures.metrics),
        means=list(figures.means),
        classes=figures.classes,
        scores=figures.scores,
    )


def check_weights(weights: Iterable[int]) -> None:
    """Raise ConfigError unless a sum in which they occur tells of nothing but the sum."""
    found = list(weights)
    if any(one & (one - 1) for one in found) or found != sorted(found, reverse=True):
        raise ConfigError(f"weights {found} are not powers of two, the largest first")


def code_of(terms: MaskTerms, layout: Layout, run: str) -> RingCode:
    """How vectors of ``layout`` become integers in ``run``."""
    return RingCode(layout, terms.ring, terms.scale, terms.limb, run, terms.weights[0])


def weight_elements(terms: MaskTerms) -> int:
    """How many integers behind the vector say what an update weighs."""
    if terms.examples == 1:
        return 0
    return 1 if terms.weights[0] > 1 else limbs(terms.examples.bit_length(), terms.limb)


def weight_integers(terms: MaskTerms, examples: int) -> list[int]:
    """What ``examples`` weigh, as `weight_elements` integers.

    Where late updates weigh less it is rounded and has a random number added, as the vector has
    (`warren_shared.tensors.ring`); else it is exact.
    """
    weight = min(examples, terms.examples)
    if terms.examples == 1:
        return []
    if terms.weights[0] == 1:
        return to_limbs(weight, terms.examples.bit_length(), terms.limb)
    return [round(weight / terms.examples * _steps(terms)) + secrets.randbelow(terms.weights[0])]


def read_weight(terms: MaskTerms, total: Ring, weights: int) -> float:
    """What the sum of `weight_integers` says: sum of a_k n_k over ``terms.examples``.

    a_k are the updates' weights by lateness, which come to ``weights``.
    """
    if terms.weights[0] == 1:
        return from_limbs(total, terms.limb) / terms.examples
    return (int(total[0]) - weights * (terms.weights[0] - 1) / 2) / _steps(terms)


def _steps(terms: MaskTerms) -> int:
    return int(2**terms.limb) - 2 * terms.weights[0]
