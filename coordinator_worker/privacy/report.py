"""What a private run promises and has spent, from its checkpoint, for people and for programs."""

from collections.abc import Iterator
from typing import Any

from coordinator_worker.state.privacy_state import PrivacyState
from warren_shared.config.client_privacy import privacy
from warren_shared.privacy.accountant import epsilon_of
from warren_shared.privacy.mechanism import Correlation

UNIT = "each client: all of its updates in this run, against everybody who sees models"
ADJACENCY = "a client's updates replaced by zeros; who takes part in which round is public"
FROM_COORDINATOR = "the coordinator, which sees each update and has the secret of the noise"
FROM_BOTH = (
    "coordinator and keeper together: the one has masked updates, the other their masks and the"
    " secret of the noise"
)
NOT_COVERED = (
    "who takes part in which round",
    "the text of errors that a client's own code raises",
    "other runs on the same data: they add up",
)


def facts(spent: PrivacyState) -> dict[str, Any]:
    """All of it by name, as JSON can hold it."""
    promise = privacy(spent.mechanism)
    correlation = Correlation(spent.theta, spent.omega)
    calibration = promise.calibration(spent.rounds, spent.quorum, spent.size, correlation)
    mu = calibration.spent(spent.done)
    counts = [found.contributions for found in spent.participations.values()]
    return {
        "mechanism": spent.mechanism,
        "unit": UNIT,
        "adjacency": ADJACENCY,
        "epsilon": epsilon_of(mu, promise.delta),
        "epsilon_promised": promise.epsilon,
        "delta": promise.delta,
        "mu": mu,
        "mu_promised": calibration.mu,
        "rounds": spent.done,
        "rounds_promised": spent.rounds,
        "clients": len(counts),
        "clients_spent": sum(count >= promise.contributions for count in counts),
        "most_contributions": max(counts, default=0),
        "contributions_allowed": promise.contributions,
        "distance": promise.distance,
        "not_covered": [FROM_BOTH if spent.masked else FROM_COORDINATOR, *NOT_COVERED],
    }


def rows(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """``facts`` as pairs of what and how much."""
    yield "promised", f"ε {told['epsilon_promised']:g} at δ {told['delta']:g}, for the whole run"
    yield "spent so far", f"ε {told['epsilon']:.4g} at δ {told['delta']:g}"
    yield "rounds", f"{told['rounds']} of {told['rounds_promised']}"
    yield "protects", told["unit"]
    yield "compares with", told["adjacency"]
    allowed = f"at most {told['contributions_allowed']}, {told['distance']} rounds apart"
    yield "rounds of a client", f"{allowed}; the most so far is {told['most_contributions']}"
    yield "clients", f"{told['clients']} took part, {told['clients_spent']} of them may no more"
    yield "mechanism", told["mechanism"]
    for number, words in enumerate(told["not_covered"]):
        yield "not covered" if not number else "", words
