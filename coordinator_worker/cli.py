"""The command ``coordinator-worker``: coordinate, or ``watch`` a federation from anywhere."""

import sys
import threading

from shared import log, service, settings

DESCRIPTION = (
    "Coordinate a federation: take weight deltas from the queue `update`, fold them, and at each"
    " quorum checkpoint the new global model and publish it to every client's mailbox."
    " `coordinator-worker watch` shows a running federation instead."
)
WATCH = "Show a running federation: rounds, quorum, clients and their metrics, bytes."


def main(argv: list[str] | None = None) -> int:
    """Run the coordinator, or a view of one; return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["watch"]:
        return service.run("coordinator-worker watch", lambda: _watch(words[1:]))
    return service.run("coordinator-worker", lambda: _coordinate(words))


def _coordinate(argv: list[str]) -> None:
    from coordinator_worker.settings import CoordinatorSettings
    from coordinator_worker.worker import CoordinatorWorker
    from shared.memory import keep_freed_memory

    given, _ = settings.load(CoordinatorSettings, description=DESCRIPTION, argv=argv)
    log.configure(given.log_format, given.log_level)
    keep_freed_memory(one_arena=True)
    CoordinatorWorker(given).run()


def _watch(argv: list[str]) -> None:
    from coordinator_worker.watch import watch

    given, _ = settings.load(settings.WorkerSettings, description=WATCH, argv=argv)
    stopped = threading.Event()
    service.on_stop_signal(lambda: threading.Thread(target=stopped.set).start())
    watch(given.broker_url, given.federation, stopped)


if __name__ == "__main__":
    sys.exit(main())
