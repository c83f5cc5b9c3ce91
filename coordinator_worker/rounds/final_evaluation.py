"""What the final model is worth: its clients evaluate it, and their counts are pooled."""

from typing import Final

from coordinator_worker.rounds.evaluation_pool import EvaluationPool
from coordinator_worker.rounds.round import evaluation_of
from coordinator_worker.state.round_record import FinalFigures, Judgement
from coordinator_worker.state.training_state import State
from warren_shared.protocol.messages import Evaluated

SHORTEST_S: Final = 5.0
LONGEST_S: Final = 60.0


class FinalEvaluation:
    """Collects one evaluation from each client that evaluated the version before.

    A round's updates say what the version before is worth, and no client trains from the last one:
    without this it would have no figures and could never be the best. ``share``: of its metrics no
    client weighs more.
    """

    def __init__(self, state: State, share: float = 1.0) -> None:
        last = state.history[-1] if state.history else None
        before = last.evaluation if last is not None else None
        seconds = last.seconds if last is not None else 0.0
        self._version = state.version
        self._expected = before.clients if before is not None else 0
        self.patience_s = min(LONGEST_S, max(SHORTEST_S, 2 * seconds))
        self._pool = EvaluationPool(share)
        self._clients: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is waited for."""
        return self._pool.clients >= self._expected

    def add(self, message: Evaluated) -> None:
        """Take one; of a client that sends two the first counts."""
        if message.client not in self._clients:
            self._clients.add(message.client)
            self._pool.add(message.client, evaluation_of(message.evaluation))

    def judgement(self, metric: str, needed: int, *, leave_out: bool = True) -> Judgement | None:
        """What the clients, ``needed`` or not, say of ``metric``; None if no client reports it."""
        del needed  # all of them evaluated one version
        return self._pool.judgement(metric.removeprefix("eval_"), leave_out=leave_out)

    @property
    def figures(self) -> FinalFigures | None:
        """As the history has it; None if no client has evaluated it."""
        if not self._clients:
            return None
        pooled = self._pool.pooled()
        metrics = {f"eval_{name}": value for name, value in pooled.metrics().items()}
        return FinalFigures(self._version, self._pool.clients, pooled.num_examples, metrics)
