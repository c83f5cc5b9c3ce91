"""How updates become the next global model.

One more aggregation rule is a function and an entry in `aggregators.AGGREGATORS`; if it needs every
update, its arithmetic belongs in `robust`. One more server optimizer is an entry in `optimizers`,
one more schedule in `schedules`.
"""

from coordinator_worker.aggregation.aggregators import Aggregator, Contribution, aggregator
from coordinator_worker.aggregation.cohort import Cohort
from coordinator_worker.aggregation.optimizers import Diverged, ServerOptimizer, server_optimizer

__all__ = [
    "Aggregator",
    "Cohort",
    "Contribution",
    "Diverged",
    "ServerOptimizer",
    "aggregator",
    "server_optimizer",
]
