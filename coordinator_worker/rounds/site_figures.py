"""How far apart single sites are: of each metric the lowest and the highest, and whose they are.

A mean hides the site for which the model does not work.
"""

from collections import Counter
from collections.abc import Mapping
from math import isfinite
from typing import Final

from coordinator_worker.state.round_record import SiteRange

MOST: Final = 8  # metrics of a round: a checkpoint holds a thousand rounds


def site_ranges(said: Mapping[str, Mapping[str, float]]) -> dict[str, SiteRange]:
    """The range of each metric that several clients report, those that most report first.

    ``said``: client -> metrics. What is NaN or infinite is not in it.
    """
    finite = [
        (name, value, client)
        for client, metrics in said.items()
        for name, value in metrics.items()
        if isfinite(value)
    ]
    reporting = Counter(name for name, _, _ in finite)
    found = {}
    # By name where as many report it: updates come in any order.
    ranked = sorted(reporting.items(), key=lambda one: (-one[1], one[0]))
    for name, clients in ranked[:MOST]:
        values = [(value, client) for of, value, client in finite if of == name]
        if clients > 1:
            (low, low_client), (high, high_client) = min(values), max(values)
            found[name] = SiteRange(clients, low, low_client, high, high_client)
    return found
