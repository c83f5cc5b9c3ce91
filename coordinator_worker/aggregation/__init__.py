"""How updates become the next global model; a file here is where one more algorithm belongs."""

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
