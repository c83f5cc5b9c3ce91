"""What clients find one version to be worth, in which none of them has too much weight."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Final

from coordinator_worker.state.round_record import Judgement
from coordinator_worker.trust.shares import factors, judge, kept_names
from warren_shared.tensors.evaluation import Counts, Evaluation, ScoreCounts, pool

MAX_TABLES: Final = 64  # that are held one by one, those of the most examples; 12 kB each
MAX_LEFT_OUT: Final = 32  # clients without which tables are pooled: 10 ms each, and 3 % at most


@dataclass(eq=False)
class _Part:
    """One client's evaluation; its tables go into the rest when there are too many."""

    client: str
    evaluation: Evaluation
    has_tables: bool


class EvaluationPool:
    """Evaluations of one version, at most one of each client.

    ``share`` is what one client may weigh of all at most (`coordinator_worker.trust.shares`).
    """

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self._parts: list[_Part] = []
        self._held: list[_Part] = []  # whose tables are there
        self._rest: list[Evaluation] = []  # tables of those with the fewest examples, pooled

    @property
    def clients(self) -> int:
        """How many there are."""
        return len(self._parts)

    @property
    def examples(self) -> int:
        """Held-out examples as the clients count them."""
        return sum(part.evaluation.num_examples for part in self._parts)

    def add(self, client: str, evaluation: Evaluation) -> None:
        """Take one; thousands of clients' tables need not all be held."""
        part = _Part(client, evaluation, bool(evaluation.confusion or evaluation.scores))
        self._parts.append(part)
        if part.has_tables:
            self._held.append(part)
        if len(self._held) >= 2 * MAX_TABLES:
            self._put_together()

    def _put_together(self) -> None:
        """Keep the MAX_TABLES largest; many at once, since pooling sorts all of them."""
        self._held.sort(key=lambda part: -part.evaluation.num_examples)
        small = self._held[MAX_TABLES:]
        del self._held[MAX_TABLES:]
        tables = [replace(part.evaluation, means={}) for part in small]
        self._rest = [pool([*self._rest, *tables])]
        for part in small:
            part.evaluation = replace(part.evaluation, confusion=(), scores=())

    def pooled(self) -> Evaluation:
        """The evaluation of all examples together, with no client's share above the limit."""
        found = _pooled(self._parts, self._rest, self._share)
        reporting = Counter(name for part in self._parts for name in part.evaluation.means)
        kept = kept_names(reporting, self.clients)
        means = {name: value for name, value in found.means.items() if name in kept}
        return replace(found, num_examples=self.examples, means=means)

    def merged(self, other: "EvaluationPool") -> "EvaluationPool":
        """With the evaluations of another version, by clients of which there is none here."""
        known = {part.client for part in self._parts}
        both = EvaluationPool(self._share)
        both._parts = [*self._parts, *(p for p in other._parts if p.client not in known)]
        both._held = [p for p in both._parts if p in self._held or p in other._held]
        both._rest = [*self._rest, *other._rest]
        return both

    def judgement(self, metric: str, *, leave_out: bool = True) -> Judgement | None:
        """What they say of ``metric``; None if no client reports it.

        Unless it is to ``leave_out`` each of them, ``low`` and ``high`` are what all say together.
        """
        whole = _pooled(self._parts, self._rest, self._share)
        together = whole.metrics().get(metric)
        said = [
            (part.evaluation.num_examples, value)
            for part in self._parts
            if (value := part.evaluation.metrics().get(metric)) is not None
        ]
        if together is None or not said:
            return None
        without: list[float] | None = []
        if leave_out and self._share < 1:
            # A mean is moved as far by a small client's value as by a large one's.
            of_tables = metric in replace(whole, means={}).metrics()
            without = self._without_each(metric) if of_tables else None
        found = judge(said, self._share, together=together, without=without)
        away = sum(1 for part in self._parts if part.has_tables and part not in self._held)
        return replace(found, clients=found.clients + away)

    def _without_each(self, metric: str) -> list[float]:
        """The metric of all but one, for each of those that weigh most."""
        largest = sorted(self._parts, key=lambda part: -part.evaluation.num_examples)
        found = []
        for left_out in largest[:MAX_LEFT_OUT]:
            others = [part for part in self._parts if part is not left_out]
            if others and metric in left_out.evaluation.metrics():
                found.append(_pooled(others, self._rest, self._share).metrics().get(metric, nan))
        return found


def _pooled(parts: Sequence[_Part], rest: Iterable[Evaluation], share: float) -> Evaluation:
    limited = factors([part.evaluation.num_examples for part in parts], share)
    scaled = [_scaled(part.evaluation, f) for part, f in zip(parts, limited, strict=True)]
    return pool([*scaled, *rest])


def _scaled(evaluation: Evaluation, factor: float) -> Evaluation:
    """As if it were of ``factor`` times as many examples; counts stay whole numbers."""
    if factor >= 1:
        return evaluation
    return Evaluation(
        max(1, round(evaluation.num_examples * factor)),
        evaluation.means,
        _fewer(evaluation.confusion, factor),
        _fewer_scores(evaluation.scores, factor),
        evaluation.is_coarse,
    )


def _fewer(table: Counts, factor: float) -> Counts:
    return tuple(tuple(round(count * factor) for count in row) for row in table)


def _fewer_scores(table: ScoreCounts, factor: float) -> ScoreCounts:
    if not table:
        return ()
    scores, negatives, positives = table
    return scores, *_fewer((negatives, positives), factor)  # type: ignore[return-value]
