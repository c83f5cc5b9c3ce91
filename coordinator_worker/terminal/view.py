"""A view of a federation as a table in a terminal, as wide and as high as there is room."""

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any, Final, Protocol

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coordinator_worker.monitoring.client_view import Row
from coordinator_worker.monitoring.events import Stamped
from coordinator_worker.monitoring.federation_view import FederationView, silence
from coordinator_worker.terminal.participation import STYLES
from coordinator_worker.text.formatting import UNKNOWN, duration, figure, plain, size, sparkline
from coordinator_worker.text.table import LONGEST, WIDE, Column, fitted

BAR: Final = 24
MIN_ROWS: Final = 3
REFUSALS: Final = 3
MAX_LINES: Final = 3  # of one thing that is amiss
LINES: Final = 12  # of a board that is not told how high it may be, above and below its table


class Source(Protocol):
    """What keeps a view current; ``notice`` says if something is amiss with that.

    ``silence_s``: seconds since the coordinator was heard of.
    """

    view: FederationView
    lock: AbstractContextManager[Any]
    notice: str

    @property
    def silence_s(self) -> float:
        """Seconds since the coordinator was heard of."""
        ...


@dataclass
class Still:
    """A view that only its board feeds."""

    view: FederationView = field(default_factory=FederationView)
    lock: AbstractContextManager[Any] = field(default_factory=threading.RLock)
    notice: str = ""
    silence_s: float = 0.0


class TerminalView:
    """What the events so far say, as a rich renderable.

    With more clients than lines it shows those that stand out, and says how the others are.
    """

    def __init__(self, title: str, source: Source | None = None) -> None:
        self.title = title
        self.finished = threading.Event()
        self._source = source or Still()

    @property
    def view(self) -> FederationView:
        """What is drawn."""
        return self._source.view

    def apply(self, event: Stamped) -> None:
        """Take one event."""
        with self._source.lock:
            self.view.apply(event)
            if self.view.finished:
                self.finished.set()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the federation as it is now."""
        height = options.height or (console.height if console.is_terminal else None)
        with self._source.lock:
            yield self._drawn(options.max_width, height)

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        """As wide as there is room."""
        return Measurement(options.max_width, options.max_width)

    def _drawn(self, width: int, height: int | None) -> RenderableType:
        view = self.view
        above: list[RenderableType] = [
            self._head(view),
            _quorum(view, width),
            *_metrics(view, width),
        ]
        above += [
            Text(line, "bold red", no_wrap=True)
            for said in _troubles(view)
            for line in wrap(plain(said), width)[:MAX_LINES]
        ]
        if notice := self._source.notice:
            above.append(Text(plain(notice), "yellow", no_wrap=True))
        below = _refusals(view)
        rows = view.rows()
        room = len(rows) if height is None else height - len(above) - len(below) - 4
        if room < len(rows):
            shown = rows[: max(MIN_ROWS, room - 1)]
            rest = [_others(rows[len(shown) :])]
        else:
            shown, rest = sorted(rows, key=lambda row: row.name), []
        return Group(*above, Text(), fitted(_columns(view, shown), width), *rest, *below)

    def _head(self, view: FederationView) -> Text:
        words = Text(no_wrap=True, overflow="ellipsis")
        words.append(plain(self.title), "bold")
        words.append(f"  version {view.version}", "bold cyan")
        if view.run:
            words.append(f"  run {plain(view.run)}", "dim")
        if view.finished:
            words.append("  finished", "bold green")
        elif silent := silence(view, self._source.silence_s):
            words.append(f"  {silent}", "bold red")
        elif view.stopped:
            words.append("  the coordinator has stopped", "bold yellow")
        return words


def _quorum(view: FederationView, width: int) -> Table:
    have, need = view.quorum
    line = Table.grid(padding=(0, 2, 0, 0))
    cells: list[RenderableType] = [
        "quorum",
        ProgressBar(total=need, completed=min(have, need), width=min(BAR, width // 4)),
        Text(f"{have} of {need}", "bold"),
    ]
    if view.opened and not view.finished:
        cells.append(Text(f"since {_ago(view.opened)}", no_wrap=True))
    if view.rounds and "seconds" in view.rounds[-1]:
        cells.append(Text(f"last round {duration(view.rounds[-1]['seconds'])}", no_wrap=True))
    if width >= WIDE:
        cells.append(Text(_traffic(view), no_wrap=True))
    line.add_row(*cells)
    return line


def _traffic(view: FederationView) -> str:
    up, down = size(view.bytes_up), size(view.bytes_down)
    if view.raw_bytes_up > view.bytes_up:
        up += f" of {size(view.raw_bytes_up)}"
    if view.raw_bytes_down > view.bytes_down:
        down += f" of {size(view.raw_bytes_down)}"
    return f"up {up}, down {down}"


def _privacy(view: FederationView) -> list[Text]:
    """What a private run has spent of its promise."""
    if not view.privacy:
        return []
    spent, promised, delta = (view.privacy[name] for name in ("epsilon", "promised", "delta"))
    words = f"ε {figure(spent)} of {figure(promised)} spent (δ {delta:g}, each client)"
    return [Text.assemble(("privacy ", "dim"), words)]


def _metrics(view: FederationView, width: int) -> list[Text]:
    """The newest figures of all clients together, each with how it has gone, as many as fit."""
    words = Text(no_wrap=True)
    last = view.rounds[-1]["metrics"] if view.rounds else {}
    sites = view.rounds[-1].get("sites", {}) if view.rounds else {}
    for name in last:
        gone = [r["metrics"][name] for r in view.rounds if name in r["metrics"]]
        bars = sparkline(gone, 10 if width < WIDE else 20)
        more = Text.assemble(
            (f"{plain(name)} ", "dim"), (figure(last[name]), "bold"), (f" {bars}", "cyan"),
            (_between(sites.get(name)), "dim"), "   ",
        )  # fmt: skip
        if len(words) + len(more) <= width:
            words.append_text(more)
    lines = [*_privacy(view), *([words] if words else [])]
    return lines if width >= WIDE else [*lines, Text(_traffic(view), "dim")]


def _between(sites: Sequence[Any] | None) -> str:
    """The lowest and the highest of single clients."""
    return f" sites {figure(sites[0])} to {figure(sites[2])}" if sites else ""


def _troubles(view: FederationView) -> list[str]:
    return list(view.trouble.values())


def _refusals(view: FederationView) -> list[Text]:
    """How much was rejected, and the newest reasons."""
    if not view.rejected:
        return []
    counted = ", ".join(f"{n} {plain(reason)}" for reason, n in view.reasons.most_common(4))
    lines = [Text(f"rejected {view.reasons.total()}: {counted}", "red", no_wrap=True)]
    for told in list(view.rejected)[: -REFUSALS - 1 : -1]:
        said = f"  {plain(told['client'])}, {_ago(told['time'])} ago: {plain(told['detail'])}"
        lines.append(Text(said, "dim", no_wrap=True, overflow="ellipsis"))
    return lines


def _others(rows: list[Row]) -> Text:
    counted = {status: sum(row.status == status for row in rows) for status in STYLES}
    found = [f"{count} {status}" for status, count in counted.items() if count]
    away = sum(row.missed for row in rows)
    share = sum(row.share for row in rows)
    words = f"… and {len(rows)} more: {', '.join(found)}; {share:.0%} of the data"
    return Text(f"{words}, {away} rounds missed", "dim", no_wrap=True, overflow="ellipsis")


def _columns(view: FederationView, rows: list[Row]) -> list[Column]:
    clients = [row.client for row in rows]
    names = [Text(plain(row.name), "bold red" if row.refused else "") for row in rows]
    for name in names:
        name.truncate(LONGEST, overflow="ellipsis")
    here = [row.now is not None and row.now >= 0 for row in rows]
    return [
        Column("client", names, numbers=False),
        Column("", [Text("●", "green") if now else Text("·", "dim") for now in here]),
        Column("status", [_status(row) for row in rows], numbers=False),
        Column("behind", [Text(str(row.behind)) for row in rows]),
        Column(
            "stale",
            [Text(UNKNOWN if row.late is None else str(row.late)) for row in rows],
            optional=True,
        ),
        Column("missed", [Text(str(row.missed)) for row in rows], optional=True),
        Column(
            "data",
            [_or_not(row.client.examples, f"{row.share:.1%}") for row in rows],
            optional=True,
        ),
        Column("size", [_or_not(c.bytes, size(c.bytes)) for c in clients], optional=True),
        Column("norm", [Text(figure(c.norm)) for c in clients], optional=True),
        Column("seen", [_or_not(c.seen, _ago(c.seen)) for c in clients]),
        Column("updates", [Text(str(c.updates)) for c in clients], optional=True),
        Column("examples", [_or_not(c.examples, str(c.examples)) for c in clients], optional=True),
        *(
            Column(plain(name), [Text(figure(c.metrics.get(name))) for c in clients], optional=True)
            for name in view.metrics
            if any(name in c.metrics for c in clients)
        ),
    ]


def _status(row: Row) -> Text:
    """What keeps a client from its work goes before how late it is."""
    if row.client.trouble.startswith("left"):
        return Text("left", "bold red")
    if row.client.away:
        return Text("away", "red")
    return Text(row.status, STYLES[row.status])


def _count(known: int | None) -> Text:
    return Text(UNKNOWN if known is None else str(known))


def _share(row: Row) -> Text:
    return _or_not(row.client.examples, f"{row.share:.1%}")


def _or_not(known: float, told: str) -> Text:
    return Text(told if known else UNKNOWN)


def _ago(moment: float) -> str:
    return duration(max(0.0, time.time() - moment))
