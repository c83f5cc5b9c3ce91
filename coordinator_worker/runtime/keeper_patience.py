"""How long the coordinator has waited for the keeper, and whom it tells."""

from collections.abc import Callable
from typing import Final

from coordinator_worker.monitoring.reporter import RunReporter
from coordinator_worker.monitoring.waiting import TICK_S

FIRST_S: Final = 10.0


class KeeperPatience:
    """Of one question after the other; ``may_wait`` says whether one is still worth an answer."""

    def __init__(self, reporter: RunReporter, may_wait: Callable[[], bool]) -> None:
        self._reporter = reporter
        self._may_wait = may_wait
        self._version = 0
        self._is_missing = False  # and that was said
        self._next_s = TICK_S  # when watchers need another sign of life

    def begin(self, version: int) -> None:
        """The keeper is asked, for ``version``."""
        self._version, self._next_s = version, TICK_S

    def goes_on(self, seconds: float) -> bool:
        """Whether to wait on after ``seconds``; says so when that is long."""
        if seconds >= FIRST_S and not self._is_missing:
            self._is_missing = True
            self._reporter.keeper_missing(self._version, seconds)
        if seconds >= self._next_s:
            self._next_s = seconds + TICK_S
            self._reporter.alive()
        return self._may_wait()

    def answered(self) -> None:
        """The keeper is there."""
        if self._is_missing:
            self._is_missing = False
            self._reporter.keeper_answered()
