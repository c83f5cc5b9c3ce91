"""What becomes of a round's updates: aggregators, as sets of functions chosen by name.

D is the round's delta, d_k the delta of update k, n_k its number of examples, s_k the weight that
the staleness policy gives it (1 if it is fresh). A mean is folded while updates arrive; a robust
rule keeps them until the round closes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from coordinator_worker.aggregation import robust
from coordinator_worker.aggregation.robust import Rule
from warren_shared.config.named import choose
from warren_shared.errors import Rejected

NO_LOCAL_STEPS: Final = (
    "FedNova needs the number of local steps and the update does not say it: have the task's fit"
    ' return "local_steps"'
)


@dataclass(frozen=True, slots=True)
class Contribution:
    """What is known of one whole update besides its bytes.

    ``norm`` is the delta's L2 norm; ``rarity`` is how many contributions a client has on average,
    over how many its sender has.
    """

    num_examples: int
    staleness_weight: float = 1.0
    norm: float = 0.0
    local_steps: int | None = None
    rarity: float = 1.0


Figure = Callable[[Contribution], float]


def _one(_update: Contribution) -> float:
    return 1.0


def _fresh(update: Contribution) -> float:
    return update.staleness_weight


def _fresh_examples(update: Contribution) -> float:
    return update.num_examples * update.staleness_weight


@dataclass(frozen=True)
class Aggregator:
    """D = f * sum_k w_k c_k d_k / sum_k w_k, f being the weighted mean of ``rescale``.

    w_k = ``weigh(k)``, c_k = ``scale(k)``. With a ``rule`` it decides instead, given c_k d_k and
    w_k; it needs ``least`` updates, and with ``centered`` it is told the last round's D.

    Statistics (`warren_shared.tensors.layout`) are a mean weighted by ``weigh_statistics(k)``,
    nothing else; with a rule, what the rule makes of each coordinate by itself.
    """

    weigh: Figure
    weigh_statistics: Figure
    scale: Figure = _one
    rescale: Figure = _one
    rule: Rule | None = None
    least: int = 1
    centered: bool = False
    needs_local_steps: bool = False
    needs_rarity: bool = False


def mean() -> Aggregator:
    """FedAvg (McMahan et al. 2017, algorithm 1): w_k = n_k s_k."""
    return Aggregator(_fresh_examples, _fresh_examples)


def uniform() -> Aggregator:
    """Every client weighs the same: w_k = s_k."""
    return Aggregator(_fresh, _fresh)


def fedbuff() -> Aggregator:
    """FedBuff (Nguyen et al. 2022, algorithm 1): D = sum_k s_k d_k / K.

    Unlike the means it does not divide by the staleness weights: a round of late updates is a
    smaller step. With a quorum of 1 and a server learning rate it is FedAsync (Xie et al. 2019).
    """
    return Aggregator(_one, _fresh, scale=_fresh)


def by_participation(most: float = 20.0) -> Aggregator:
    """D = sum_k min(r_k, ``most``) d_k / K, r_k the rarity of who sent d_k.

    In an asynchronous federation the fast clients' data would count as often as they are back, and
    the slow ones', which may hold unique data, hardly at all. So weighed every client moves
    the model as far in the long run (inverse probability weighting: Horvitz & Thompson 1952).
    Staleness is not discounted: the slow are the stale. ``most`` is for who comes new into an old
    federation, whose first update would otherwise weigh as much as all that it has missed.
    """
    if not most >= 1:
        raise ValueError(f"most is {most}; it has to be 1 or more")

    def rare(update: Contribution) -> float:
        return min(update.rarity, most)

    return Aggregator(_one, rare, scale=rare, needs_rarity=True)


def fednova() -> Aggregator:
    """FedNova (Wang et al. 2020, equation 8 for plain SGD).

    D = (sum_k p_k t_k) * sum_k p_k d_k / t_k, t_k the local steps of k and p_k = w_k / sum w.
    """

    def steps(update: Contribution) -> float:
        if not update.local_steps:
            raise Rejected("local-steps", NO_LOCAL_STEPS)
        return float(update.local_steps)

    return Aggregator(
        _fresh_examples,
        _fresh_examples,
        scale=lambda k: 1.0 / steps(k),
        rescale=steps,
        needs_local_steps=True,
    )


def _robust(rule: Rule, least: int = 1, *, centered: bool = False) -> Aggregator:
    """A client's number of examples is its own word, so it does not count here."""
    return Aggregator(_fresh, _fresh, rule=rule, least=least, centered=centered)


def median() -> Aggregator:
    """Coordinate-wise median (Yin et al. 2018, definition 1); late updates count in full."""
    return _robust(robust.by_median)


def trimmed_mean(fraction: float = 0.2) -> Aggregator:
    """Coordinate-wise trimmed mean (Yin et al. 2018, definition 2); late updates count in full."""
    if not 0 <= fraction < 0.5:
        raise ValueError(f"fraction is {fraction}; of each end less than half can be cut off")
    return _robust(robust.by_trimmed_mean(fraction))


def krum(f: int) -> Aggregator:
    """Krum (Blanchard et al. 2017, section 4): the one update that is nearest to its neighbours."""
    return _robust(robust.by_krum(_faulty(f), 1), 2 * f + 3)


def multi_krum(f: int) -> Aggregator:
    """Multi-Krum (Blanchard et al. 2017, section 5): the mean of the K - f of the best scores."""
    return _robust(robust.by_krum(_faulty(f), None), 2 * f + 3)


def geometric_median() -> Aggregator:
    """RFA (Pillutla et al. 2022, algorithm 2): the smoothed geometric median, weights s_k."""
    return _robust(robust.by_geometric_median)


def centered_clipping(radius: float = 10.0) -> Aggregator:
    """Centered clipping (Karimireddy et al. 2021, equation CC)."""
    if not radius > 0:
        raise ValueError(f"radius is {radius}; it has to be above 0")
    return _robust(robust.by_centered_clipping(radius), centered=True)


def _faulty(f: int) -> int:
    if f < 0:
        raise ValueError(f"f is {f}; it is the number of clients that may be faulty")
    return f


AGGREGATORS: Final[Mapping[str, Callable[..., Aggregator]]] = {
    "mean": mean,
    "uniform": uniform,
    "fedbuff": fedbuff,
    "by-participation": by_participation,
    "fednova": fednova,
    "median": median,
    "trimmed-mean": trimmed_mean,
    "krum": krum,
    "multi-krum": multi_krum,
    "geometric-median": geometric_median,
    "centered-clipping": centered_clipping,
}


def aggregator(spec: str) -> Aggregator:
    """The aggregator that ``spec`` names; raises ConfigError."""
    return choose("aggregator", spec, AGGREGATORS, Aggregator)
