"""``coordinator-worker watch``: a running federation, live in the terminal."""

import threading

from coordinator_worker.watch import watch
from shared import service, settings

ABOUT = "Show a running federation: rounds, quorum, clients and their metrics, bytes."


def run(argv: list[str]) -> None:
    """Show it until it finishes or we are asked to stop."""
    given, _ = settings.load(settings.WorkerSettings, description=ABOUT, argv=argv)
    stopped = threading.Event()
    service.on_stop_signal(lambda: threading.Thread(target=stopped.set).start())
    watch(given.broker, given.federation, stopped)
