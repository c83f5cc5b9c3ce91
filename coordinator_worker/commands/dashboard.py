"""``coordinator-worker dashboard``: a running federation in a browser."""

import argparse
import sys
import threading
from pathlib import Path
from typing import Final

from coordinator_worker.dashboard.run import save, serve
from warren_shared.config import settings
from warren_shared.service import lifecycle

ABOUT = (
    "Show a federation in a browser: quorum, metrics, who took part in which round, staleness,"
    " traffic, what was rejected. Takes the watcher's bundle, on any machine; several may run."
    " There is no login, so by default only this machine can look; `ssh -L` or a proxy of your own"
    " lets others in."
)
PORT: Final = 8080


def run(argv: list[str]) -> None:
    """Serve it until we are asked to stop, or write it into a file."""
    own = _flags()
    given, _ = settings.load(settings.WatcherSettings, description=ABOUT, argv=argv, own=own)
    asked = settings.own_words(own, settings.WatcherSettings, argv)
    if asked.save is not None:
        save(given, asked.save)
        return
    stopped = threading.Event()
    lifecycle.on_stop_signal(stopped.set)
    serve(given, (asked.address, asked.port), stopped, _say)


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="coordinator-worker dashboard", add_help=False, allow_abbrev=False
    )
    flags.add_argument(
        "--port", type=_port, default=PORT, help=f"where to listen (default: {PORT}; 0: any)"
    )
    flags.add_argument(
        "--address", default="127.0.0.1", help="and on which of our addresses (127.0.0.1)"
    )
    flags.add_argument(
        "--save",
        type=Path,
        metavar="FILE.html",
        help="instead: write a page of how it is now, which needs nothing else, and end",
    )
    return flags


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port")
    return int(text)


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()
