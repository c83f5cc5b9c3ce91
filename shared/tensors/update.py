"""What a client hands in for one round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warren_shared.tensors.evaluation import Evaluation
from warren_shared.tensors.layout import Array


@dataclass(frozen=True)
class Update:
    """A client's contribution: how far its training moved the weights, and how much it weighs.

    ``delta``: trained weights minus the global model's, one array per tensor, shapes and dtypes
    of the model. ``num_examples``: how many training examples stand behind it (its weight in
    FedAvg). ``metrics``: named figures about this client, never its data. ``local_steps``: how many
    optimizer steps made the delta, for the algorithms that need to know. ``evaluation``: what the
    *global* model is worth on this client's held-out data. ``not_finite``: names of the figures
    that came out as NaN or infinite.
    """

    delta: Sequence[Array]
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    local_steps: int | None = None
    evaluation: Evaluation | None = None
    not_finite: Sequence[str] = ()
