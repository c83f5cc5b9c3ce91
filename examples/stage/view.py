"""What the person at the terminal sees while it runs."""

import sys
import threading
from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from coordinator_worker.monitoring.events import RoundClosed, Stamped
from coordinator_worker.terminal.view import TerminalView
from coordinator_worker.text.formatting import size


class View:
    """A live table in a terminal, one line a round elsewhere; fed with events."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console()
        self._status = "starting"
        self._lock = threading.Lock()
        self.boards: list[TerminalView] = []
        self.history: list[dict[int, Mapping[str, float]]] = []
        self._live = Live(
            self, console=self._console, refresh_per_second=8, transient=True
        ) if sys.stdout.isatty() else None  # fmt: skip

    def __enter__(self) -> "View":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, status: str) -> None:
        """Change the line below the table."""
        self._status = status
        if self._live is None:
            print(status, flush=True)

    def begin(self, name: str) -> TerminalView:
        """A new run: events from now on are about it."""
        with self._lock:
            self.boards.append(TerminalView(f"{self._title}, {name}"))
            self.history.append({})
            return self.boards[-1]

    def apply(self, stamped: Stamped) -> None:
        """Take an event of the run in progress."""
        with self._lock:
            if not self.boards:
                return
            board = self.boards[-1]
            board.apply(stamped)
            if not isinstance(stamped.event, RoundClosed):
                return
            record = stamped.event.record
            self.history[-1][record.version] = record.metrics
        if self._live is None:
            metrics = record.metrics.items()
            figures = ", ".join(f"{name} {value:.4f}" for name, value in metrics)
            traffic = f"up {size(board.view.bytes_up)}, down {size(board.view.bytes_down)}"
            print(f"{board.title}, round {record.version}: {figures}; {traffic}", flush=True)

    def __rich__(self) -> RenderableType:
        with self._lock:
            boards = self.boards[-1:]
            return Group(*boards, Text(self._status, style="dim"))
