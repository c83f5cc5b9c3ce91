"""How large an update may be before it is refused as absurd, whatever the aggregator."""

from math import sqrt
from typing import Final

from coordinator_worker.aggregation.weighted_sum import sum_of_squares
from coordinator_worker.state.training_state import State
from warren_shared.errors import ConfigError, Rejected
from warren_shared.tensors.layout import bytes_of

FACTOR: Final = 100.0
ROUNDS: Final = 10
# Before any update was accepted nothing is known of the data's scale: a first update may be a table
# of times in nanoseconds, 1.7e18 each. What is above that is no datum.
FIRST_FACTOR: Final = 1e19


class UpdateNormLimit:
    """Refuses updates whose L2 norm is above ``--max-update-norm``.

    ``auto``: FACTOR times what the model's own norm and the largest of the last ROUNDS rounds'
    median norms make together, all of trainable tensors. It is there for what is absurd, 1e30 from
    a bug or a vandal, and far above anything training does; to bound what a clever client gains is
    `--clip-norm`'s task and the robust aggregators'. Nothing is remembered but in the state, so a
    resumed run decides alike.
    """

    def __init__(self, setting: str) -> None:
        self._automatic = setting == "auto"
        self._fixed = float("inf") if setting in {"auto", "off"} else _number(setting)
        self._of_model: tuple[str, int, float] | None = None

    def check(self, norm: float, state: State) -> None:
        """Raise Rejected(``norm``) if an update of this norm is too large."""
        most = self._most(norm, state) if self._automatic else self._fixed
        if norm > most:
            raise Rejected("norm", f"its norm is {norm:.3g}, above {most:.3g} (--max-update-norm)")

    def _most(self, norm: float, state: State) -> float:
        norms = [record.norm for record in state.history[-ROUNDS:]]
        recent = max(norms, default=0.0)
        if 0.0 < norm <= FACTOR * recent:
            return FACTOR * recent  # nearly always; the model's own norm takes a pass over it
        model = self._norm_of_model(state)
        if not recent:
            return max(FACTOR * model, FIRST_FACTOR * sqrt(state.weights.layout.size_bytes))
        return FACTOR * (recent + model)

    def _norm_of_model(self, state: State) -> float:
        if self._of_model is None or self._of_model[:2] != (state.run, state.version):
            squares = sum_of_squares(state.weights.layout, 0, bytes_of(state.weights.buffer))
            self._of_model = (state.run, state.version, sqrt(squares))
        return self._of_model[2]


def _number(setting: str) -> float:
    try:
        most = float(setting)
    except ValueError:
        most = 0.0
    if not most > 0:
        raise ConfigError(f"--max-update-norm {setting}: it is a number above 0, auto, or off")
    return most
