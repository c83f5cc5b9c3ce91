"""What one sees of a run: a live curve in a notebook, a bar in a terminal, else nothing."""

import sys
from html import escape
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from coordinator_worker.monitoring import events
from coordinator_worker.versions.history import aligned
from warren_fl.curve import Curve
from warren_shared.errors import ConfigError

if TYPE_CHECKING:
    from coordinator_worker.state.round_record import RoundRecord

PAUSE_S: Final = 0.5  # between two pictures: each is sent to the browser whole


class Display(Protocol):
    """Shows a run."""

    def on_event(self, event: events.Posted) -> None:
        """Show what happened."""
        ...

    def close(self) -> None:
        """Show the end."""
        ...


def display(rounds: int | None) -> Display | None:
    """Whatever suits the place in which this runs."""
    if _in_notebook():
        return _Notebook(rounds)
    return _Terminal(rounds) if sys.stderr.isatty() else None


def _in_notebook() -> bool:
    """Whether there is a kernel whose front end shows pictures."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and hasattr(shell, "kernel")


class _Notebook:
    def __init__(self, rounds: int | None) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._rounds = rounds
        self._records: list[RoundRecord] = []
        self._words = "waiting for the clients"
        self._shown = 0.0
        self._handle: Any = display(HTML(self._text()), display_id=True)

    def on_event(self, event: events.Posted) -> None:
        if isinstance(event, events.RoundClosed):
            self._records.append(event.record)
            self._words = ""
        elif isinstance(event, events.ClientFailed):
            self._words = f"{event.client} failed: {event.reason}"
        elif isinstance(event, events.RoundWaiting):
            self._words = event.words
        if monotonic() - self._shown >= PAUSE_S:
            self._show()

    def close(self) -> None:
        self._show()

    def _show(self) -> None:
        self._shown = monotonic()
        if self._handle is not None:
            self._handle.update(self._html(self._text()))

    def _text(self) -> str:
        done = self._records[-1].version if self._records else 0
        share = f' value="{done}" max="{self._rounds}"' if self._rounds else ""
        of = f" of {self._rounds}" if self._rounds else ""
        try:
            drawn = Curve.of(aligned(self._records)).svg()
        except ConfigError:
            drawn = ""
        words = f" {escape(self._words)}" if self._words else ""
        return f"<div><progress{share}></progress> round {done}{of}{words}<br>{drawn}</div>"


class _Terminal:
    def __init__(self, rounds: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("rounds"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
        )  # fmt: skip
        # Standard output and error stay as they are: nothing is redirected in a user's program.
        self._bar = Progress(
            *columns,
            console=Console(stderr=True),
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("waiting for the clients", total=rounds)
        self._bar.start()

    def on_event(self, event: events.Posted) -> None:
        if isinstance(event, events.RoundClosed):
            record = event.record
            told = ", ".join(f"{name} {value:.4g}" for name, value in [*record.metrics.items()][:3])
            self._bar.update(self._task, completed=record.version, description=told)
        elif isinstance(event, events.ClientFailed):
            self._bar.update(self._task, description=f"{event.client} failed: {event.reason}"[:60])
        elif isinstance(event, events.RoundWaiting):
            self._bar.update(self._task, description=event.words[:60])

    def close(self) -> None:
        self._bar.stop()
