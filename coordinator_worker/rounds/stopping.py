"""What a run is to reach: when it is over, and which of its versions is the best."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, nan
from typing import Final, Protocol, Self

from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.round_record import Judgement, RoundRecord
from coordinator_worker.state.training_state import Best, State
from warren_shared.errors import ConfigError
from warren_shared.observability.log import Log

log = Log(__name__)

MATERIAL: Final = 0.01


class Ask(Protocol):
    """What the clients say of a metric; leaving each out takes time, and only a target needs it."""

    def __call__(self, metric: str, needed: int, *, leave_out: bool) -> Judgement | None:
        """None if no client reports it."""


@dataclass(frozen=True)
class Target:
    """A goal for a metric: at least (or at most) ``value``."""

    metric: str
    at_least: bool
    value: float

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read ``NAME>=VALUE`` or ``NAME<=VALUE``."""
        matched = re.fullmatch(r"([\w.-]+)\s*(>=|<=)\s*([-+.\deE]+)", text)
        try:
            if matched is None:
                raise ValueError(text)
            return cls(matched[1], matched[2] == ">=", float(matched[3]))
        except ValueError:
            raise ConfigError(f"--target {text}: write NAME>=VALUE or NAME<=VALUE") from None

    def reached(self, metrics: Mapping[str, float]) -> bool:
        """Whether ``metrics`` reach the goal."""
        found = metrics.get(self.metric)
        return found is not None and self._is_met(found)

    def is_certain(self, judged: Judgement) -> bool:
        """Whether it is reached also without any one of the clients."""
        return self._is_met(judged.low if self.at_least else judged.high)

    def _is_met(self, found: float) -> bool:
        return found >= self.value if self.at_least else found <= self.value


@dataclass(frozen=True)
class Monitor:
    """A metric, and whether more of it is better."""

    metric: str
    more: bool

    @classmethod
    def parse(cls, text: str) -> "Monitor":
        """Read ``NAME:max`` or ``NAME:min``."""
        name, _, direction = text.rpartition(":")
        if not name or direction not in ("max", "min"):
            raise ConfigError(f"--monitor {text}: write NAME:max or NAME:min")
        return cls(name, direction == "max")

    def __str__(self) -> str:
        """As it is written on the command line."""
        return f"{self.metric}:{'max' if self.more else 'min'}"

    def is_better(self, value: float, than: float) -> bool:
        """Whether ``value`` is better."""
        return value > than if self.more else value < than


@dataclass(frozen=True)
class StoppingCriteria:
    """When a run is over; None: never.

    After so many ``rounds``, when a metric reaches its ``target``, or when the ``monitor``ed one
    has not got better for ``patience`` versions.

    One client's word decides none of it: ``needed`` clients have to report a target's metric, and
    more than half as many a monitored one; the target has to be met also without any one of them.
    """

    rounds: int | None = None
    target: Target | None = None
    monitor: Monitor | None = None
    patience: int | None = None
    needed: int = 1

    @classmethod
    def from_settings(cls, settings: CoordinatorSettings) -> Self:
        """The goal that ``settings`` name."""
        target = Target.parse(settings.target) if settings.target else None
        monitor = Monitor.parse(settings.monitor) if settings.monitor else None
        needed = settings.quorum
        if settings.deadline_s is not None:
            needed = max(settings.min_quorum, min(2, settings.quorum))
        if settings.max_evaluation_share >= 1:
            needed = 1  # every client is believed
        return cls(settings.rounds, target, monitor, settings.patience, needed)

    def judge(self, ask: Ask) -> dict[str, Judgement]:
        """What ``ask`` says of each metric that the run is steered by."""
        target = self.target.metric if self.target is not None else None
        found = {m: ask(m, self.needed, leave_out=m == target) for m in self.watched()}
        return {metric: said for metric, said in found.items() if said is not None}

    def reached(self, state: State) -> bool:
        """Whether ``state`` is the run's last."""
        if self.rounds is not None and state.version >= self.rounds:
            return True
        if self._is_target_met(state):
            return True
        return self.patience is not None and self._waited(state) > self.patience

    def _is_target_met(self, state: State) -> bool:
        if self.target is None or not state.history:
            return False
        last = state.history[-1]
        if not self.target.reached(last.metrics):
            return False
        if last.judged is None:  # by a version before clients were counted
            return True
        judged = last.judged.get(self.target.metric)
        if judged is None:
            return False
        return judged.clients >= self.needed and self.target.is_certain(judged)

    def _waited(self, state: State) -> int:
        """Versions since the best one, but those of which too few clients said anything."""
        if state.best is None or self.monitor is None:
            return 0
        since = [record for record in state.history if record.version > state.best.version + 1]
        unknown = sum(1 for record in since if self._is_unknown(record, self.monitor))
        return state.version - state.best.version - unknown

    def _is_unknown(self, record: RoundRecord, monitor: Monitor) -> bool:
        if record.judged is None:
            return False
        judged = record.judged.get(monitor.metric)
        return judged is None or judged.clients <= self.needed // 2

    def doubts(self, record: RoundRecord) -> list[str]:
        """Why what ``record`` says of the watched metrics decides nothing, a line for each."""
        found = []
        for metric, flag in self.watched().items():
            judged = (record.judged or {}).get(metric)
            if judged is None:
                continue
            is_target = self.target is not None and metric == self.target.metric
            least = self.needed if is_target else self.needed // 2 + 1
            if judged.clients < least:
                found.append(
                    f"{flag} decides nothing while fewer than {least} of a round's clients report"
                    f" {metric} (--max-evaluation-share 1 believes each of them)"
                )
            elif (
                self.target is not None
                and is_target
                and self.target.reached(record.metrics)
                and not self.target.is_certain(judged)
            ):
                found.append(
                    f"{flag} is not met: {metric} gets there only with the word of one of the"
                    " clients (--max-evaluation-share 1 takes it)"
                )
        return found

    def reason(self, state: State) -> str:
        """Why ``state`` is the run's last version, in words."""
        last = state.history[-1].metrics if state.history else {}
        if self.target is not None and self._is_target_met(state):
            sign = ">=" if self.target.at_least else "<="
            found = last[self.target.metric]
            return f"--target {self.target.metric}{sign}{self.target.value:g} is met ({found:.4g})"
        if self.rounds is not None and state.version >= self.rounds:
            return f"--rounds {self.rounds} are made"
        best = state.best.version if state.best is not None else 0
        return f"--patience {self.patience}: no version was better than {best} since"

    def watched(self) -> dict[str, str]:
        """Metrics that the run is steered by, and the flag that says so."""
        found = {self.target.metric: "--target"} if self.target is not None else {}
        if self.monitor is not None:
            patience = " and --patience" if self.patience is not None else ""
            found[self.monitor.metric] = f"--monitor{patience}"
        return found

    def better(
        self, best: Best | None, record: RoundRecord, version: int, typical: float | None = None
    ) -> Best | None:
        """The version that ``record`` evaluates, if it is ``version`` and beats ``best``.

        What clients typically say decides where it differs from ``typical``, what they said of the
        best version, by more than a hundredth: then one client's word, however far out, makes no
        version the best and hides none. Otherwise what all say together does.
        """
        evaluated = record.evaluation
        value = record.metrics.get(self.monitor.metric) if self.monitor else None
        if self.monitor is None or value is None:
            return None
        if evaluated is None or evaluated.version != version:
            return None
        judged = (record.judged or {}).get(self.monitor.metric)
        now = judged.typical if judged is not None else nan
        if not isfinite(value):
            value = now  # of one client that could not compute it
        if not isfinite(value) or self._is_unknown(record, self.monitor):
            return None
        if best is not None:
            pair = (value, best.value)
            if typical is not None and _differ(now, typical):
                pair = (now, typical)
            if not self.monitor.is_better(*pair):
                return None
        return Best(version, value)

    def begin(self, state: State) -> State:
        """``state`` to go on from: a best version by another metric than ours is none.

        A checkpoint that does not say by which is taken to be of ours.
        """
        if self.monitor is None:
            return state
        mine = str(self.monitor)
        if state.best is not None and state.monitored not in ("", mine):
            log.warning(
                "best_forgotten",
                "--monitor %s: version %d was the best by %s, which says nothing of this metric;"
                " the best is looked for anew",
                mine,
                state.best.version,
                state.monitored,
            )
            state = replace(state, best=None)
        return replace(state, monitored=mine)

    def typical(self, state: State) -> float | None:
        """What clients typically said of the best version; None if that is not known any more."""
        if state.best is None or self.monitor is None:
            return None
        for record in state.history:
            if record.version == state.best.version + 1:
                judged = (record.judged or {}).get(self.monitor.metric)
                return judged.typical if judged and isfinite(judged.typical) else None
        return None


def _differ(a: float, b: float) -> bool:
    return isfinite(a) and abs(a - b) > MATERIAL * max(abs(a), abs(b))
