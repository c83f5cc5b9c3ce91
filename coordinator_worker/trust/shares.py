"""How much one client's word weighs in what a round says of a model."""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from math import isfinite, nan
from typing import Final

from coordinator_worker.state.round_record import Judgement

MIN_CLIENTS: Final = 3  # of two neither can be told from the other
MAX_NAMES: Final = 64  # of metrics in a round's record
MAX_LONE_NAMES: Final = 16  # up to so many a name counts that only one of several clients has


def factors(examples: Sequence[int], share: float) -> list[float]:
    """What to multiply each client's number of ``examples`` by, that none has more than ``share``.

    Sizes are cut at one cap: with k clients above it and the others' sum r, the cap c solves
    c = share (k c + r). All are 1 where none is above, and for fewer than MIN_CLIENTS clients.
    Where ``share`` is less than one of n equal parts, all weigh the same.
    """
    if share >= 1 or len(examples) < MIN_CLIENTS:
        return [1.0] * len(examples)
    sizes = sorted(examples, reverse=True)
    rest = float(sum(sizes))
    cap = float(sizes[-1])
    for above, size in enumerate(sizes):
        if share * above >= 1:
            break
        cap = share * rest / (1 - share * above)
        if size <= cap:
            break
        rest -= size
        cap = float(sizes[-1])
    return [min(1.0, cap / size) for size in examples]


def judge(
    reports: Sequence[tuple[int, float]],
    share: float,
    *,
    together: float | None = None,
    without: Sequence[float] | None = None,
) -> Judgement:
    """What the (number of examples, value) of each client come to.

    ``together`` is what all of them come to and ``without`` what they do without each, where these
    are no means. A value that is NaN is passed over in ``typical`` while most are not, and makes
    ``low`` and ``high`` NaN.
    """
    weights = _weights([examples for examples, _ in reports], share)
    values = [value for _, value in reports]
    whole = _mean(weights, values) if together is None else together
    found = _each_left_out(weights, values) if without is None else list(without)
    if share >= 1:
        return Judgement(len(reports), whole, whole, whole)
    found.append(whole)
    low, high = (min(found), max(found)) if all(map(isfinite, found)) else (nan, nan)
    return Judgement(len(reports), _without_outliers(weights, values), low, high)


def _weights(examples: Sequence[int], share: float) -> list[float]:
    limited = factors(examples, share)
    return [count * factor for count, factor in zip(examples, limited, strict=True)]


def _mean(weights: Sequence[float], values: Sequence[float]) -> float:
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def _each_left_out(weights: Sequence[float], values: Sequence[float]) -> list[float]:
    """The mean without each of them, by sums from both ends: a difference would lose digits."""
    if len(values) == 1:
        return []
    products = [w * v for w, v in zip(weights, values, strict=True)]
    found = []
    sums = (_sums_of_others(products), _sums_of_others(weights))
    for total, weight in zip(*sums, strict=True):
        found.append(total / weight)
    return found


def _sums_of_others(numbers: Sequence[float]) -> list[float]:
    before = [0.0, *accumulate(numbers[:-1])]
    behind = [0.0, *accumulate(reversed(numbers[1:]))][::-1]
    return [a + b for a, b in zip(before, behind, strict=True)]


def _without_outliers(weights: Sequence[float], values: Sequence[float]) -> float:
    """The mean of what is finite, each no further out than what the others say."""
    there = [(v, w) for v, w in zip(values, weights, strict=True) if isfinite(v)]
    if 2 * len(there) <= len(values):
        return nan
    if len(there) >= MIN_CLIENTS:
        ordered = sorted(there)
        (least, next_least), (next_most, most) = (
            (ordered[0], ordered[1]),
            (ordered[-2], ordered[-1]),
        )
        ordered[0] = (next_least[0], least[1])
        ordered[-1] = (next_most[0], most[1])
        there = ordered
    return _mean([w for _, w in there], [v for v, _ in there])


def kept_names(reporting: Counter[str], clients: int) -> set[str]:
    """Metrics that a round's record keeps, of those that so many of its ``clients`` report.

    Clients make names up, and a record is kept for a thousand rounds: those that most report go
    first, and where there are many, what only one client says is not kept.
    """
    ranked = sorted(reporting, key=lambda name: (-reporting[name], name))
    several = clients >= MIN_CLIENTS
    return {
        name
        for rank, name in enumerate(ranked[:MAX_NAMES])
        if rank < MAX_LONE_NAMES or reporting[name] > 1 or not several
    }
