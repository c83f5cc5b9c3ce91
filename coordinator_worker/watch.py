"""A federation seen from the ``event`` exchange, live in a terminal."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from broker_config.names import EVENT_EXCHANGE
from shared.amqp import Session
from shared.delivery import Delivery, Subscription
from shared.tls import Broker

MOST_METRICS = 4


class Watch(AbstractContextManager["Watch"]):
    """Follows the events of a federation; ``on_event`` is called on the connection's thread."""

    def __init__(self, broker: str | Broker, on_event: Callable[[dict[str, Any]], None]) -> None:
        subscription = Subscription(
            (),
            lambda delivery: on_event(_read(delivery)),
            manual_ack=False,
            follows=(EVENT_EXCHANGE, "#"),
            tag="watch",
        )
        self._session = Session(broker, "watch", subscription)

    def __enter__(self) -> "Watch":
        """Begin to follow."""
        self._session.start(patience_s=10.0)
        return self

    def __exit__(self, *_: object) -> None:
        """Follow no longer."""
        self._session.close()


def _read(delivery: Delivery) -> dict[str, Any]:
    event = json.loads(bytes(delivery.body))
    return event if isinstance(event, dict) else {}


class Board:
    """What the events so far say, as a rich renderable: quorum, clients, metrics, bytes.

    ``bytes_down`` counts a model once for each known client: the broker makes those copies.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.version = 0
        self.rounds = 0
        self.updates_folded = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.finished = threading.Event()
        self._quorum = (0, 1)
        self._clients: dict[str, dict[str, Any]] = {}
        self._metrics: Mapping[str, float] = {}
        self._trouble = ""

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        topic = str(event.get("event", ""))
        if "client" in event and not topic.startswith("update.rejected"):
            self._clients.setdefault(event["client"], {"updates": 0})
        if topic.startswith("update.accepted."):
            self._accepted(event)
        elif topic.startswith("update.rejected."):
            client = self._clients.setdefault(event["client"], {"updates": 0})
            client["rejected"] = event["reason"]
        elif topic in ("coordinator.stalled", "coordinator.recovered", "round.diverged"):
            self._trouble = str(event.get("detail", ""))
        elif topic == "round.closed":
            self.rounds += 1
            self.updates_folded += event["updates"]
            self.bytes_up += event["bytes_up"]
            self._metrics = event["metrics"]
        elif topic in ("model.published", "federation.finished"):
            self.version = event["version"]
            self._quorum = event["quorum"]
            self.bytes_down += event["bytes"] * len(self._clients)
            if topic == "federation.finished":
                self.finished.set()

    def _accepted(self, event: Mapping[str, Any]) -> None:
        client = self._clients[event["client"]]
        client |= {
            "updates": client["updates"] + 1,
            "base": event["base_version"],
            "examples": event["examples"],
            "metrics": event["metrics"],
            "seen": time.monotonic(),
        }
        self._quorum = event["quorum"]

    def __rich__(self) -> RenderableType:
        """Draw the federation as it is now."""
        have, need = self._quorum
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self.title, style="bold"),
            f"version {self.version}",
            "quorum",
            ProgressBar(total=need, completed=have, width=20),
            f"{have} of {need}",
            f"up {size(self.bytes_up)}, down {size(self.bytes_down)}",
        )
        if self._trouble:
            trouble = Text(f"the coordinator waits: {self._trouble}", style="bold red")
            return Group(head, trouble, self._table())
        return Group(head, self._table())

    def _table(self) -> Table:
        shown = sorted({name for c in self._clients.values() for name in c.get("metrics", {})})
        shown = shown[:MOST_METRICS]
        table = Table("client", box=None, header_style="dim", padding=(0, 2, 0, 0))
        for heading in ("updates", "from version", "examples", *shown):
            table.add_column(heading, justify="right")
        for name, client in sorted(self._clients.items()):
            figures = [_figure(client.get("metrics", {}).get(metric)) for metric in shown]
            facts = [str(client.get(key, "–")) for key in ("updates", "base", "examples")]
            table.add_row(name, *facts, *figures)
        if self._metrics:
            means = [_figure(self._metrics.get(metric)) for metric in shown]
            table.add_row("all, by examples", "", "", "", *means, style="bold")
        return table


def size(count: float) -> str:
    """``count`` bytes for people: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def watch(broker: str | Broker, federation: str, stopped: threading.Event) -> None:
    """Show the federation live until it finishes or ``stopped`` is set."""
    board = Board(federation)
    console = Console()
    with Live(board, console=console, auto_refresh=False) as live:

        def on_event(event: dict[str, Any]) -> None:
            board.feed(event)
            live.refresh()
            if board.finished.is_set():
                stopped.set()

        with Watch(broker, on_event):
            stopped.wait()
