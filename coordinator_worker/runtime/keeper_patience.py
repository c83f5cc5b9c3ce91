"""How long the coordinator has waited for the keeper, and whom it tells."""

from collections.abc import Callable
from typing import Final

from coordinator_worker.monitoring.reporter import RunReporter
from coordinator_worker.monitoring.waiting import TICK_S

FIRST_S: Final = 10.0


class KeeperPatience:
    """Of one question, for ``version``; ``may_wait`` says whether it is still worth an answer."""

    def __init__(self, reporter: RunReporter, version: int, may_wait: Callable[[], bool]) -> None:
        self._reporter = reporter
        self._version = version
        self._may_wait = may_wait
        self._said = False
        self._next_s = TICK_S  # when watchers need another sign of life

    def goes_on(self, seconds: float) -> bool:
        """Whether to wait on after ``seconds``; says so when that is long."""
        if seconds >= FIRST_S and not self._said:
            self._said = True
            self._reporter.keeper_missing(self._version, seconds)
        if seconds >= self._next_s:
            self._next_s = seconds + TICK_S
            self._reporter.alive()
        return self._may_wait()

    def over(self) -> None:
        """There is an answer, or it is no longer wanted."""
        if self._said:
            self._reporter.keeper_answered()
