"""What browsers are shown: the newest view, at most twice a second, however many look on."""

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from warren_shared import strict_json

if TYPE_CHECKING:
    from coordinator_worker.monitoring.follower import Follower

PAUSE_S: Final = 0.5
STILL_THERE_S: Final = 10.0


class Frames:
    """The view of ``follower`` as server-sent events, made once for all when it ``changed``.

    No client has a backlog: a slow one is given the newest frame when it is ready for one.
    """

    def __init__(self, follower: "Follower", changed: threading.Event) -> None:
        self._follower = follower
        self._changed = changed
        self._closing = False
        self._news = threading.Condition()
        self._number = 0
        self._frame = b""

    def close(self) -> None:
        """End all that is going on."""
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._changed.set()

    def make(self) -> None:
        """Make frames, until ``close``."""
        while not self._closing:
            self._changed.wait()
            self._changed.clear()
            body = b"data: " + self.newest() + b"\n\n"
            with self._news:
                self._number += 1
                self._frame = body
                self._news.notify_all()
                self._news.wait_for(lambda: self._closing, PAUSE_S)

    def newest(self) -> bytes:
        """The view as it is now, as JSON."""
        with self._follower.lock:
            whole = self._follower.view.as_dict()
            notice = self._follower.notice
            silence_s = self._follower.silence_s
        told = {"now": time.time(), "notice": notice, "silence_s": silence_s, "picture": whole}
        return strict_json.dumps(told).encode()

    def each(self) -> Iterator[bytes]:
        """The frames for one browser, and a sign of life where there are none.

        The first is made for it: the last one that was made says what time it was then.
        """
        with self._news:
            seen = self._number
        yield b"data: " + self.newest() + b"\n\n"
        while not self._closing:
            with self._news:
                self._news.wait_for(lambda: self._closing or self._number != seen, STILL_THERE_S)  # noqa: B023
                frame = self._frame if self._number != seen else b": still here\n\n"
                seen = self._number
            yield frame
