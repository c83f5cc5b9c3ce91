"""What the coordinator does while its disk is full: wait, and try again."""

from collections.abc import Callable

from coordinator_worker.monitoring.reporter import RunReporter
from coordinator_worker.runtime.event_loop import CoordinatorLoop
from warren_shared.amqp.backoff import backoff_s
from warren_shared.errors import Stopped


class DiskRetry:
    """With a disk that is full: say so once, and try again for ever, at growing intervals."""

    def __init__(self, reporter: RunReporter, loop: CoordinatorLoop) -> None:
        self._reporter = reporter
        self._loop = loop
        self._attempts = 0
        self._of_staging = False

    def wait(self, error: OSError, *, of_staging: bool = False) -> None:
        """Wait before the next attempt; raises Stopped if we are asked to stop meanwhile.

        After an error ``of_staging`` a few lines that the disk takes prove nothing.
        """
        self._attempts += 1
        self._of_staging = self._of_staging or of_staging
        if self._attempts == 1:
            self._reporter.stalled(error)
        self._loop.supervisor.alive("the checkpoint folder cannot be written; trying again")
        if self._loop.stopped_within(backoff_s(self._attempts)):
            raise Stopped("stopped while the checkpoint folder could not be written")

    def persist(self, write: Callable[[], None], *, is_small: bool = False) -> None:
        """Write; while the disk is full, wait: nothing else may happen before."""
        while True:
            try:
                write()
            except OSError as error:
                self.wait(error)
            else:
                if not (is_small and self._of_staging):
                    self._over()
                return

    def _over(self) -> None:
        if self._attempts:
            self._attempts, self._of_staging = 0, False
            self._reporter.recovered()
