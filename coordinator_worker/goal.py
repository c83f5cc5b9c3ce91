"""What a run is to reach: when it is over, and which of its versions is the best."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Self

from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state import Best, Record, State
from shared.errors import ConfigError


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
        if found is None:
            return False
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

    def is_better(self, value: float, than: float) -> bool:
        """Whether ``value`` is better."""
        return value > than if self.more else value < than


@dataclass(frozen=True)
class Goal:
    """When a run is over; None: never.

    After so many ``rounds``, when a metric reaches its ``target``, or when the ``monitor``ed one
    has not got better for ``patience`` versions.
    """

    rounds: int | None = None
    target: Target | None = None
    monitor: Monitor | None = None
    patience: int | None = None

    @classmethod
    def of(cls, settings: CoordinatorSettings) -> Self:
        """The goal that ``settings`` name."""
        target = Target.parse(settings.target) if settings.target else None
        monitor = Monitor.parse(settings.monitor) if settings.monitor else None
        return cls(settings.rounds, target, monitor, settings.patience)

    def reached(self, state: State) -> bool:
        """Whether ``state`` is the run's last."""
        if self.rounds is not None and state.version >= self.rounds:
            return True
        last = state.history[-1]["metrics"] if state.history else {}
        if self.target is not None and self.target.reached(last):
            return True
        waited = state.version - state.best.version if state.best is not None else 0
        return self.patience is not None and waited > self.patience

    def reason(self, state: State) -> str:
        """Why ``state`` is the run's last version, in words."""
        last = state.history[-1]["metrics"] if state.history else {}
        if self.target is not None and self.target.reached(last):
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

    def better(self, best: Best | None, record: Record, version: int) -> Best | None:
        """The version that ``record`` evaluates, if it is ``version`` and beats ``best``."""
        evaluated = record["evaluation"] or {}
        value = record["metrics"].get(self.monitor.metric) if self.monitor else None
        if self.monitor is None or value is None or evaluated.get("version") != version:
            return None
        if not isfinite(value):
            return None
        if best is not None and not self.monitor.is_better(value, best.value):
            return None
        return Best(version, value)
