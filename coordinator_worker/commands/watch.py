"""``coordinator-worker watch``: a running federation, live in the terminal."""

import argparse
import sys
import threading
from contextlib import suppress
from typing import Final

from rich.console import Console
from rich.live import Live

from coordinator_worker.monitoring.events import FederationFinished, Stamped
from coordinator_worker.monitoring.follower import Follower, fetch_snapshot
from coordinator_worker.terminal import event_lines
from coordinator_worker.terminal.view import Still, TerminalView
from warren_shared.config import settings
from warren_shared.errors import ConfigError, Stopped
from warren_shared.service import lifecycle

ABOUT = (
    "Show a running federation: quorum, rounds, metrics, and each client's rounds behind,"
    " staleness, bytes, norm, missed rounds and share of the data; with more clients than lines,"
    " those that stand out. A line for each event instead where there is no terminal. Takes"
    " the watcher's bundle, on any machine; ends with the run."
)


PIPE_COLUMNS: Final = 120  # of a board that goes into a pipe


def run(argv: list[str]) -> None:
    """Show it until it finishes or we are asked to stop."""
    own = argparse.ArgumentParser(
        prog="coordinator-worker watch", add_help=False, allow_abbrev=False
    )
    own.add_argument(
        "--once", action="store_true", help="show how it is now, and end: also when nothing runs"
    )
    given, _ = settings.load(settings.WatcherSettings, description=ABOUT, argv=argv, own=own)
    once = settings.own_words(own, settings.WatcherSettings, argv).once
    (show if once else follow)(given)


def show(given: settings.WatcherSettings) -> None:
    """Print what the coordinator said last."""
    found = fetch_snapshot(given.broker, f"watch · {given.federation}")
    if found is None:
        raise ConfigError(
            f"nothing is known of {given.federation} yet: no coordinator has run on this broker"
        )
    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    console = Console(width=width, height=sys.maxsize, highlight=False)
    console.print(TerminalView(given.federation, Still(found)))


def follow(given: settings.WatcherSettings) -> None:
    """Show it live: a table on a terminal, lines elsewhere."""
    stopped = threading.Event()
    console = Console()

    def changed(event: Stamped | None) -> None:
        if event is None:
            return
        if not console.is_terminal and (line := event_lines.line(event)) is not None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if isinstance(event.event, FederationFinished):
            stopped.set()

    follower = Follower(given.broker, f"watch · {given.federation}", changed)
    board = TerminalView(given.federation, follower)

    def stop() -> None:
        stopped.set()
        follower.leave()

    lifecycle.on_stop_signal(stop)
    with suppress(Stopped), follower:
        if not console.is_terminal:
            stopped.wait()
            return
        # Twice a second, whatever happens: times pass, and a thousand updates are not drawn each.
        with Live(board, console=console, refresh_per_second=2):
            stopped.wait()
