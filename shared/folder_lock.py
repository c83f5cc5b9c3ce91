"""The right to write a worker's folder: one process at a time has it."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from warren_shared.errors import Stopped
from warren_shared.observability.log import Log

log = Log(__name__)

RETRY_S: Final = 0.5


class FolderLock:
    """A lock on ``folder`` itself, which the system takes back however its holder ends.

    The broker lets one coordinator, or keeper, at a time consume, but it cannot know what one that
    was cut off is still writing. Two that overwrite in turn would each take the other's newest file
    for the older one. ``worker`` is what both are.
    """

    def __init__(self, folder: Path, worker: str = "coordinator") -> None:
        self._folder = folder
        self._worker = worker
        self._descriptor = -1

    def take(self) -> bool:
        """Take it if it is free; whether it is ours now."""
        if self._descriptor >= 0:
            return True
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            log.warning(
                "unlocked", "%s cannot be locked (%s): start no second one", self._folder, error
            )
        self._descriptor = descriptor
        return True

    def wait(self, stopped_within: Callable[[float], bool]) -> None:
        """Take it as soon as it is free; raise Stopped once ``stopped_within(s)`` says so.

        Tried again and again, which costs nothing to speak of.
        """
        said = False
        while not self.take():
            if not said:
                log.warning("standby", "another %s still writes %s", self._worker, self._folder)
                said = True
            if stopped_within(RETRY_S):
                raise Stopped(f"stopped while another {self._worker} had {self._folder}")

    def give_back(self) -> None:
        """Let another have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
