"""The round in progress: its sum, and everything that will be said about it."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from math import nan
from operator import itemgetter
from statistics import median
from typing import Final

from coordinator_worker.aggregation import Contribution
from coordinator_worker.aggregation.coordinator import AnyCohort
from coordinator_worker.aggregation.masked_cohort import MaskedCohort
from coordinator_worker.aggregation.private_cohort import PrivateCohort
from coordinator_worker.rounds.evaluation_pool import EvaluationPool
from coordinator_worker.rounds.incoming_update import IncomingUpdate
from coordinator_worker.rounds.site_figures import site_ranges
from coordinator_worker.state.round_record import (
    MAX_LISTED,
    ClientFigures,
    ClientReport,
    Entry,
    EvaluationSummary,
    Judgement,
    RoundRecord,
)
from coordinator_worker.trust.shares import factors, judge, kept_names
from warren_shared.errors import Rejected
from warren_shared.observability.event_bus import Timings
from warren_shared.protocol.messages import EvaluationEntry, UpdateManifest
from warren_shared.tensors.evaluation import Evaluation, of_histograms, pool
from warren_shared.tensors.masked_figures import Told

NONE: Final[Mapping[str, int]] = {}


def weighted_means(
    reports: Mapping[str, tuple[int, Mapping[str, float]]], share: float = 1.0
) -> dict[str, float]:
    """Mean of each metric over the clients that report it, weighted by numbers of examples.

    ``reports``: client -> (number of examples, metrics); none of them weighs more than ``share``.
    Right for losses and error rates; a mean of AUCs is a mean of AUCs, not the AUC of all.
    """
    reporting = Counter(name for _, metrics in reports.values() for name in metrics)
    kept = kept_names(reporting, len(reports)) if share < 1 else set(reporting)
    of_all = factors([examples for examples, _ in reports.values()], share)
    found = {}
    # What most report comes first: a view with room for some of them begins there.
    ranked = sorted(reporting, key=lambda name: -reporting[name])
    for name in (name for name in ranked if name in kept):
        said = [(n, metrics[name]) for n, metrics in reports.values() if name in metrics]
        limits = of_all if len(said) == len(reports) else factors([n for n, _ in said], share)
        weights = [n * limit for (n, _), limit in zip(said, limits, strict=True)]
        total = sum(w * value for w, (_, value) in zip(weights, said, strict=True))
        found[name] = total / sum(weights)
    return found


class Round:
    """The updates since the last version, which ``cohort`` gathers.

    ``share``: of its metrics no client weighs more.
    """

    def __init__(self, cohort: AnyCohort, share: float = 1.0) -> None:
        self.cohort = cohort
        self._share = share
        self._held: list[list[int]] = []  # of each update, as `Intake` keeps them
        self.entries: list[Entry] = []
        self.codes: dict[str, str] = {}  # of each client's task, the version that its update names
        self._reports: dict[str, tuple[int, Mapping[str, float]]] = {}
        self._evaluations: dict[int, EvaluationPool] = {}  # by the version that was evaluated
        self.figures: list[ClientFigures] = []  # of each update
        self._norms: list[float] = []
        self._told: list[Told] = []  # of masked updates, those with the same figures together
        self._bytes_up = self._raw_bytes_up = 0
        self.phases = Timings()

    @property
    def tags(self) -> list[int]:
        """The deliveries that hold its updates in the broker until a checkpoint has them."""
        return list(chain.from_iterable(self._held))

    @property
    def contributions(self) -> list[tuple[str, int]]:
        """Client and base version of each update."""
        return [(entry.client, entry.base_version) for entry in self.entries]

    @property
    def examples(self) -> list[tuple[str, int]]:
        """Client and number of examples of each update."""
        return [(entry.client, entry.num_examples) for entry in self.entries]

    @property
    def clients(self) -> set[str]:
        """Whose updates are in it."""
        return {entry.client for entry in self.entries}

    @property
    def updates(self) -> int:
        """How many updates are in it."""
        return self.cohort.count

    def fold(self, arrival: IncomingUpdate, rarity: float = 1.0) -> None:
        """Take a whole update; its deliveries now belong to this round.

        Raises Rejected if it lacks what the aggregator needs.
        """
        manifest = arrival.manifest
        if not isinstance(manifest, UpdateManifest):
            raise TypeError(f"{manifest.kind} is not an update")
        norm = arrival.norm
        contribution = Contribution(
            manifest.num_examples, arrival.staleness_weight, norm, manifest.local_steps, rarity
        )
        told = {"client": manifest.client, "base_version": manifest.base_version}
        told |= {} if arrival.hides_norm else {"norm": norm}
        with self.phases.measure("fold", **told):
            weight = self._fold(contribution, arrival)
        self._held.append(arrival.tags)
        self.entries.append(
            Entry(
                manifest.client,
                manifest.base_version,
                manifest.num_examples,
                weight,
                manifest.transfer,
                f"{manifest.digest:016x}",
            )
        )
        metrics = metrics_of(manifest)
        self._reports[manifest.client] = (manifest.num_examples, metrics)
        self.codes[manifest.client] = manifest.code
        self._norms += [] if arrival.hides_norm else [norm]
        self._bytes_up += manifest.size_bytes
        self._raw_bytes_up += arrival.layout.size_bytes
        if (found := manifest.evaluation) is not None:
            evaluated = self._evaluations.setdefault(
                manifest.base_version, EvaluationPool(self._share)
            )
            evaluation = evaluation_of(found)
            evaluated.add(manifest.client, evaluation)
            if len(self.figures) < MAX_LISTED:
                metrics = metrics | {f"eval_{n}": v for n, v in evaluation.metrics().items()}
        shown = None if arrival.hides_norm else norm
        self.figures.append(
            ClientFigures(
                manifest.client, manifest.base_version, manifest.num_examples, shown, metrics
            )
        )

    def unmasked(self, figures: Sequence[Told]) -> None:
        """The masks are off: ``figures`` are what clients say together."""
        self._told = list(figures)

    def _fold(self, contribution: Contribution, arrival: IncomingUpdate) -> float:
        if isinstance(self.cohort, MaskedCohort):
            figures = arrival.manifest.figures if isinstance(
                arrival.manifest, UpdateManifest
            ) else None  # fmt: skip
            return self.cohort.take(arrival, int(contribution.staleness_weight), figures)
        if not isinstance(self.cohort, PrivateCohort):
            return self.cohort.take(contribution, arrival)
        if not arrival.is_void:
            with suppress(Rejected):  # longer than its norm says: it moves nothing, like NaN
                return self.cohort.take(contribution, arrival)
        arrival.release()
        return self.cohort.take(contribution, None)

    def evaluation_of(self, version: int) -> Evaluation | None:
        """What ``version`` is worth on the held-out data of all clients that trained from it."""
        if told := self._told_evaluations():
            return pool(told)
        found = self._evaluations.get(version)
        return found.pooled() if found else None

    def judgement(self, metric: str, needed: int, *, leave_out: bool = True) -> Judgement | None:
        """What the round's clients say of ``metric``; None if no client reports it.

        Of the newest version that was evaluated, and where clients are several versions apart
        (``--max-staleness``) and fewer than ``needed`` evaluated that one, of those before it, too.
        """
        evaluated = [found for _, found in sorted(self._evaluations.items(), reverse=True)]
        name = metric.removeprefix("eval_")
        if self._told:
            value = self._figures().get(metric)
            return None if value is None else Judgement(self.updates, value, value, value)
        if evaluated and name != metric and name in evaluated[0].pooled().metrics():
            found = evaluated[0]
            for older in evaluated[1:]:
                found = found if found.clients >= needed else found.merged(older)
            return found.judgement(name, leave_out=leave_out)
        said = [(n, metrics[metric]) for n, metrics in self._reports.values() if metric in metrics]
        return judge(said, self._share) if said else None

    def record(
        self,
        version: int,
        incomplete: int = 0,
        rejected: Mapping[str, int] = NONE,
        judged: Mapping[str, Judgement] | None = None,
    ) -> RoundRecord:
        """What the history and the event say of this round, which made ``version``.

        ``incomplete``: updates that were dropped half-way; ``rejected``: how many, by reason;
        ``judged``: what the clients say of metrics that steer the run.
        """
        return RoundRecord(
            version=version,
            updates=self.updates,
            examples=self.num_examples,
            incomplete=incomplete,
            rejected=dict(rejected),
            clients={
                client: ClientReport(examples, dict(metrics))
                for client, (examples, metrics) in self._reports.items()
            },
            metrics=self._figures(),
            evaluation=self._evaluation(),
            norm=median(self._norms) if self._norms else 0.0,
            bytes_up=self._bytes_up,
            raw_bytes_up=self._raw_bytes_up if self._raw_bytes_up != self._bytes_up else None,
            seconds=time.monotonic() - self.phases.began,
            time=time.time(),
            judged=judged,
            sites=site_ranges(self._of_each()) or None,
            absent=frozenset(() if self._norms else ("norm",)),  # masks and privacy hide them
        )

    def _of_each(self) -> dict[str, dict[str, float]]:
        """What each client says of its training, and as ``eval_…`` of the newest version."""
        newest = max(self._evaluations, default=None)
        return {
            said.client: {
                name: value
                for name, value in said.metrics.items()
                if said.base_version == newest or not name.startswith("eval_")
            }
            for said in sorted(self.figures, key=lambda one: one.base_version)
        }

    @property
    def num_examples(self) -> int:
        """Those of all updates together; 0 if they are not told."""
        if self._told:
            return sum(told.examples for told in self._told)
        return sum(count for _, count in self.examples)

    def _figures(self) -> dict[str, float]:
        """Metrics of training, and as ``eval_…`` what the version before is worth."""
        if not self._told:
            told = {client: said for client, said in self._reports.items() if said[0]}
            return weighted_means(told, self._share) | self._pooled()
        reports = {str(n): (told.examples, told.metrics) for n, told in enumerate(self._told)}
        found = weighted_means(reports)
        pooled = pool(self._told_evaluations())
        return found | {f"eval_{name}": value for name, value in pooled.metrics().items()}

    def _told_evaluations(self) -> list[Evaluation]:
        return [told.evaluation for told in self._told if told.evaluation is not None]

    def _evaluation(self) -> EvaluationSummary | None:
        """Which version was evaluated: the newest, if clients report of several."""
        if told := self._told_evaluations():
            version = max(entry.base_version for entry in self.entries)
            return EvaluationSummary(version, self.updates, sum(one.num_examples for one in told))
        if not self._evaluations:
            return None
        version, found = max(self._evaluations.items(), key=itemgetter(0))
        return EvaluationSummary(version, found.clients, found.examples)

    def _pooled(self) -> dict[str, float]:
        """Its metrics over the held-out examples of all clients together."""
        if not self._evaluations:
            return {}
        pooled = self._evaluations[max(self._evaluations)].pooled()
        return {f"eval_{name}": value for name, value in pooled.metrics().items()}


def metrics_of(manifest: UpdateManifest) -> dict[str, float]:
    """What a client said of its training, with NaN again for what was not finite."""
    return {**manifest.metrics, **dict.fromkeys(manifest.not_finite, nan)}


def evaluation_of(entry: EvaluationEntry) -> Evaluation:
    """What a client said, with NaN again for what was not finite."""
    means = {**entry.means, **dict.fromkeys(entry.not_finite, nan)}
    confusion = tuple(map(tuple, entry.confusion))
    if (table := entry.score_table) is not None:
        rows = tuple(table.scores), tuple(table.negatives), tuple(table.positives)
        return Evaluation(entry.num_examples, means, confusion, rows)
    if entry.scores:
        coarse = of_histograms(entry.scores)
        return Evaluation(entry.num_examples, means, confusion, coarse, is_coarse=True)
    return Evaluation(entry.num_examples, means, confusion)
