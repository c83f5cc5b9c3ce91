"""What is remembered of a round: in the checkpoint, in events, beside past versions.

Its readers are history, lineage, model card, listing, curves, metrics and the view of a federation.
On disk and on the wire it is a JSON object, ``to_dict``. Older versions have fewer fields, newer
ones may have more.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import nan
from typing import Any, Final, NamedTuple, Self

from coordinator_worker.state.roster import Status, StatusTotal
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation

# Raised only for what an older reader must not overlook: a field that is new is passed on by it.
# The first format was written without its number, and is as long as that is the only one.
FORMAT: Final = 1
# Fields that each record has today. One that lacks some was written before there were such.
ALWAYS: Final = (
    "version", "updates", "examples", "incomplete", "rejected", "metrics", "evaluation", "norm",
    "bytes_up", "seconds", "time",
)  # fmt: skip
OPTIONAL: Final = (
    "clients", "raw_bytes_up", "bytes_down", "raw_bytes_down", "privacy", "judged", "above",
    "diverged", "participation", "rolled_back", "evaluated", "final_evaluation",
    "ended", "sites",
)  # fmt: skip
MAX_LISTED: Final = 1000  # updates of a round of which each client's own figures are kept
UNKNOWN: Final = -1  # version of a record that does not say it
_KNOWN: Final = frozenset((*ALWAYS, *OPTIONAL, "format"))


class Entry(NamedTuple):
    """One update of a round; ``weight`` is what it weighs among the others, ``digest`` its XXH3."""

    client: str
    base_version: int
    num_examples: int
    weight: float
    transfer: str
    digest: str


@dataclass(frozen=True, slots=True)
class ClientReport:
    """What one client said of its training: number of examples, and its metrics."""

    examples: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ClientFigures:
    """One update of a round, and what its client said with it.

    ``metrics`` of its training, and as ``eval_…`` what ``base_version`` is worth on its held-out
    data; ``norm``: the L2 norm of the update, None if that is hidden.
    """

    client: str
    base_version: int
    examples: int
    norm: float | None
    metrics: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "client": self.client,
            "base_version": self.base_version,
            "examples": self.examples,
            "norm": self.norm,
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """``clients`` have evaluated ``version``, on so many held-out ``examples`` together."""

    version: int
    clients: int = 0
    examples: int = 0


@dataclass(frozen=True, slots=True)
class FinalFigures:
    """What a run's last version is worth, whose clients evaluated it when the run had ended."""

    version: int
    clients: int
    examples: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a round's clients say of one metric that the run is steered by.

    ``clients``: how many report it; ``typical``: the mean of what they say, each no further out
    than the others go; ``low`` and ``high``: the least and the most that all of them come to
    together, or without any one of them.
    """

    clients: int
    typical: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SiteRange:
    """What ``clients`` say of one metric, each of itself: the least and the most, and who it is."""

    clients: int
    low: float
    low_client: str
    high: float
    high_client: str


@dataclass(frozen=True, slots=True)
class Rollback:
    """Where a version's weights are from that no updates made.

    ``version`` they were (None: of a file), ``source`` in words, ``digest`` their XXH3.
    """

    version: int | None
    source: str
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"version": self.version, "source": self.source, "digest": self.digest}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From what ``to_dict`` gave; a version that is no number is none."""
        version = fields.get("version")
        known = version if isinstance(version, int) else None
        return cls(known, str(fields.get("source")), str(fields.get("digest")))


@dataclass(frozen=True, slots=True)
class PrivacySpent:
    """What a private run has come to: (``epsilon``, ``delta``) by now, ``promised`` in the end."""

    epsilon: float
    promised: float
    delta: float


@dataclass(frozen=True, slots=True)
class RegionResult:
    """What a region tells the federation above of its round, besides the weights."""

    examples: int
    evaluation: Evaluation | None


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What the history says of the round that made ``version``.

    ``updates`` are in it, of ``examples`` examples together; ``incomplete`` were dropped half-way;
    ``rejected``: how many must not count, by reason. ``metrics``: training's, and as ``eval_…``
    what the version in ``evaluation`` is worth (None: no version was evaluated). ``norm``: the
    median L2 norm of the updates; ``bytes_up`` of them; ``seconds`` until the quorum; ``time`` of
    that, in seconds since the epoch.

    What only some records have is None in the others. ``clients``: what each said, in the newest
    record of a history alone; ``raw_bytes_up``: what the updates would have been without
    an encoding; ``bytes_down``: of the version itself as it went to each client, where it may go
    as a change, and ``raw_bytes_down`` of the whole model; ``privacy``: of a private run;
    ``judged``: of metrics that steer the run; ``above``: of a region;
    ``diverged``: why the round's updates were refused; ``participation``: of the roster, by status;
    ``rolled_back``: of a version that no updates made; ``evaluated``: what the program of
    ``--evaluate`` says of this version; ``final_evaluation``: what its clients say of the last one;
    ``ended``: why the run ended with it, in words; ``sites``: how far single clients are apart in
    a metric.

    ``absent`` are names of ALWAYS that the writer did not know, ``norm`` where that is hidden;
    ``extra`` fields that this version does not know. A record that is written again keeps both.
    """

    version: int
    updates: int = 0
    examples: int = 0
    incomplete: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    clients: Mapping[str, ClientReport] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluation: EvaluationSummary | None = None
    norm: float = 0.0
    bytes_up: int = 0
    seconds: float = 0.0
    time: float = 0.0
    raw_bytes_up: int | None = None
    bytes_down: int | None = None
    raw_bytes_down: int | None = None
    privacy: PrivacySpent | None = None
    judged: Mapping[str, Judgement] | None = None
    above: RegionResult | None = None
    diverged: str | None = None
    participation: Mapping[Status, StatusTotal] | None = None
    rolled_back: Rollback | None = None
    evaluated: Mapping[str, float] | None = None
    final_evaluation: FinalFigures | None = None
    ended: str | None = None
    sites: Mapping[str, SiteRange] | None = None
    absent: frozenset[str] = frozenset()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def knows(self, name: str) -> bool:
        """Whether the record says anything of this field."""
        return name not in self.absent if name in ALWAYS else getattr(self, name) is not None

    def shortened(self) -> "RoundRecord":
        """Without what is long, and of use only while the record is the newest."""
        if self.clients is None and self.above is None:
            return self
        return replace(self, clients=None, above=None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON and msgpack can hold it, always in the same order."""
        told: dict[str, Any] = {
            "version": self.version,
            "updates": self.updates,
            "examples": self.examples,
            "incomplete": self.incomplete,
            "rejected": dict(self.rejected),
        }
        if self.clients is not None:
            told["clients"] = {
                client: {"examples": report.examples, "metrics": dict(report.metrics)}
                for client, report in self.clients.items()
            }
        told["metrics"] = dict(self.metrics)
        told["evaluation"] = None if self.evaluation is None else _summary(self.evaluation)
        told["norm"] = self.norm
        told["bytes_up"] = self.bytes_up
        told["seconds"] = self.seconds
        told["time"] = self.time
        for name in self.absent:
            del told[name]
        return {**told, **self._some_have(), **_ranges(self.sites), **self.extra}

    def _some_have(self) -> dict[str, Any]:
        """What is in some records only, behind all the rest."""
        sizes = ("raw_bytes_up", "bytes_down", "raw_bytes_down")
        told: dict[str, Any] = {name: getattr(self, name) for name in sizes if self.knows(name)}
        if self.privacy is not None:
            told["privacy"] = asdict(self.privacy)
        if self.judged is not None:
            told["judged"] = {
                name: {"clients": j.clients, "typical": j.typical, "low": j.low, "high": j.high}
                for name, j in self.judged.items()
            }
        if self.above is not None:
            told["above"] = _region(self.above)
        if self.diverged is not None:
            told["diverged"] = self.diverged
        if self.participation is not None:
            told["participation"] = {
                status: {"clients": total.clients, "data_share": total.data_share}
                for status, total in self.participation.items()
            }
        if self.rolled_back is not None:
            told["rolled_back"] = self.rolled_back.to_dict()
        if self.evaluated is not None:
            told["evaluated"] = dict(self.evaluated)
        if (final := self.final_evaluation) is not None:
            told["final_evaluation"] = {**_summary(final), "metrics": dict(final.metrics)}
        if self.ended is not None:
            told["ended"] = self.ended
        return told

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From what ``to_dict`` of this version or another one gave.

        Raises:
            ValueError: it is no record.
            ConfigError: it is of a newer format than ours.
        """
        if (written := fields.get("format", FORMAT)) != FORMAT:
            raise ConfigError(
                f"a round's record is of format {written}, and this Warren reads {FORMAT}: it was"
                " written by a newer one; upgrade"
            )
        try:
            return cls._read(fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of a round ({error!r})") from None

    @classmethod
    def _read(cls, fields: Mapping[str, Any]) -> Self:
        get = fields.get
        clients, judged, above = get("clients"), get("judged"), get("above")
        raw, down, raw_down = get("raw_bytes_up"), get("bytes_down"), get("raw_bytes_down")
        spent = get("privacy")
        standings, origin, final = get("participation"), get("rolled_back"), get("final_evaluation")
        evaluation, evaluated, diverged = get("evaluation"), get("evaluated"), get("diverged")
        ended, sites = get("ended"), get("sites")
        return cls(
            version=int(get("version", UNKNOWN)),
            updates=int(get("updates", 0)),
            examples=int(get("examples", 0)),
            incomplete=int(get("incomplete", 0)),
            rejected=dict(get("rejected", {})),
            clients=None if clients is None else _reports(clients),
            metrics=_figures(get("metrics", {})),
            evaluation=None if evaluation is None else _summary_of(evaluation),
            norm=_number(get("norm", 0.0)),
            bytes_up=int(get("bytes_up", 0)),
            seconds=_number(get("seconds", 0.0)),
            time=_number(get("time", 0.0)),
            raw_bytes_up=None if raw is None else int(raw),
            bytes_down=None if down is None else int(down),
            raw_bytes_down=None if raw_down is None else int(raw_down),
            privacy=None if spent is None else PrivacySpent(**spent),
            judged=None if judged is None else _judgements(judged),
            above=None if above is None else _region_of(above),
            diverged=None if diverged is None else str(diverged),
            participation=None if standings is None else _standings(standings),
            rolled_back=None if origin is None else Rollback.from_dict(origin),
            evaluated=None if evaluated is None else _figures(evaluated),
            final_evaluation=None if final is None else _final(final),
            ended=None if ended is None else str(ended),
            sites=None if sites is None else {n: SiteRange(**said) for n, said in sites.items()},
            absent=frozenset(name for name in ALWAYS if name not in fields),
            extra={name: value for name, value in fields.items() if name not in _KNOWN},
        )


def _summary(told: EvaluationSummary | FinalFigures) -> dict[str, Any]:
    return {"version": told.version, "clients": told.clients, "examples": told.examples}


def _summary_of(fields: Mapping[str, Any]) -> EvaluationSummary:
    return EvaluationSummary(fields["version"], fields.get("clients", 0), fields.get("examples", 0))


def _ranges(sites: Mapping[str, SiteRange] | None) -> dict[str, Any]:
    if sites is None:
        return {}
    return {
        "sites": {
            # Not by asdict, which takes ten times as long: a checkpoint has a thousand records.
            name: {
                "clients": found.clients,
                "low": found.low,
                "low_client": found.low_client,
                "high": found.high,
                "high_client": found.high_client,
            }
            for name, found in sites.items()
        }
    }


def _region(told: RegionResult) -> dict[str, Any]:
    found = told.evaluation
    if found is None:
        return {"examples": told.examples, "evaluation": None}
    evaluation = {
        "num_examples": found.num_examples,
        "means": dict(found.means),
        "confusion": found.confusion,
        "scores": found.scores,
        "is_coarse": found.is_coarse,
    }
    return {"examples": told.examples, "evaluation": evaluation}


def _region_of(fields: Mapping[str, Any]) -> RegionResult:
    found = fields["evaluation"]
    return RegionResult(int(fields["examples"]), Evaluation(**found) if found else None)


def _number(value: float | None) -> float:
    """JSON has no NaN: it was null."""
    return nan if value is None else float(value)


def _figures(given: Mapping[str, float | None]) -> dict[str, float]:
    return {name: nan if value is None else value for name, value in given.items()}


def _reports(given: Mapping[str, Mapping[str, Any]]) -> dict[str, ClientReport]:
    return {
        client: ClientReport(said.get("examples", 0), _figures(said.get("metrics", {})))
        for client, said in given.items()
    }


def _judgements(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Judgement]:
    return {
        metric: Judgement(
            said["clients"], _number(said["typical"]), _number(said["low"]), _number(said["high"])
        )
        for metric, said in given.items()
    }


def _standings(given: Mapping[Status, Mapping[str, Any]]) -> dict[Status, StatusTotal]:
    return {
        status: StatusTotal(total["clients"], total["data_share"])
        for status, total in given.items()
    }


def _final(given: Mapping[str, Any]) -> FinalFigures:
    return FinalFigures(
        given["version"], given["clients"], given["examples"], _figures(given["metrics"])
    )
