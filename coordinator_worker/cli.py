"""The command ``coordinator-worker``: coordinate, or ``watch`` a federation from anywhere."""

import sys
import threading

from shared import log, service, settings

DESCRIPTION = (
    "Coordinate a federation: take weight deltas from the queue `update`, fold them, and at each"
    " quorum checkpoint the new global model and publish it to every client's mailbox."
    " `coordinator-worker watch` shows a running federation instead, `coordinator-worker"
    " participation` who takes part."
)
PARTICIPATION = (
    "Print who takes part, from the checkpoint: who is in the newest model, who is late, who has"
    " gone, and the share of the data that each of them stands for."
)
WATCH = "Show a running federation: rounds, quorum, clients and their metrics, bytes."


def main(argv: list[str] | None = None) -> int:
    """Run the coordinator, or a view of one; return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    commands = {"watch": _watch, "participation": _participation}
    if words and words[0] in commands:
        return service.run(f"coordinator-worker {words[0]}", lambda: commands[words[0]](words[1:]))
    return service.run("coordinator-worker", lambda: _coordinate(words))


def _coordinate(argv: list[str]) -> None:
    from coordinator_worker.settings import CoordinatorSettings
    from coordinator_worker.worker import CoordinatorWorker
    from shared.memory import keep_freed_memory

    given, _ = settings.load(CoordinatorSettings, description=DESCRIPTION, argv=argv)
    log.configure(given.log_format, given.log_level)
    keep_freed_memory(one_arena=True)
    CoordinatorWorker(given).run()


def _participation(argv: list[str]) -> None:
    from coordinator_worker.report import ReportSettings, report

    given, _ = settings.load(ReportSettings, description=PARTICIPATION, argv=argv)
    report(given.checkpoint_dir, as_json=given.json_)


def _watch(argv: list[str]) -> None:
    from coordinator_worker.watch import watch

    given, _ = settings.load(settings.WorkerSettings, description=WATCH, argv=argv)
    stopped = threading.Event()
    service.on_stop_signal(lambda: threading.Thread(target=stopped.set).start())
    watch(given.broker_url, given.federation, stopped)


if __name__ == "__main__":
    sys.exit(main())
