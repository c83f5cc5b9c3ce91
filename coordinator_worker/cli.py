"""The command ``coordinator-worker``: coordinate, or look at a federation from anywhere."""

import argparse
import sys
import threading
from collections.abc import Iterator

from shared import log, service, settings

DESCRIPTION = (
    "Coordinate a federation: take weight deltas from the queue `update`, fold them, and at each"
    " quorum checkpoint the new global model and publish it to every client's mailbox."
    " `coordinator-worker watch` shows a running federation instead, `coordinator-worker"
    " participation` who takes part, `coordinator-worker rejected` what was rejected and why,"
    " `coordinator-worker audit` whose updates made a model; `coordinator-worker check` looks for"
    " what would keep it from its work."
)
PARTICIPATION = (
    "Print who takes part, from the checkpoint: who is in the newest model, who is late, who has"
    " gone, and the share of the data that each of them stands for."
)
AUDIT = (
    "Say exactly whose updates made a model, from the audit log in the checkpoint folder; without a"
    " VERSION, list all of the run. Needs no broker, and may run beside the coordinator."
)
CHECK = (
    "Look for what would keep this coordinator from its work: settings, broker, permissions,"
    " checkpoint folder. A line for each finding, ok, warn or FAIL; exit code 1 if one is a FAIL."
    " May run beside the coordinator; nothing is changed."
)
WATCH = "Show a running federation: rounds, quorum, clients and their metrics, bytes."
REJECTED = (
    "List what was rejected and why, newest first, and how many for each reason: the messages in"
    " the queue `update.rejected`, which stay there for a week. Takes the coordinator's bundle, and"
    " may run beside the coordinator; nothing is taken out of the queue."
)


def main(argv: list[str] | None = None) -> int:
    """Run the coordinator, or a view of one; return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    commands = {
        "watch": _watch,
        "participation": _participation,
        "rejected": _rejected,
        "audit": _audit,
        "check": _check,
    }
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


def _check(argv: list[str]) -> None:
    from coordinator_worker.check import check
    from coordinator_worker.settings import CoordinatorSettings
    from shared import findings

    def found() -> Iterator[findings.Finding]:
        given, _ = settings.load(CoordinatorSettings, description=CHECK, argv=argv)
        yield from check(given)

    findings.show(found())


def _participation(argv: list[str]) -> None:
    from coordinator_worker.report import ReportSettings, report

    given, _ = settings.load(ReportSettings, description=PARTICIPATION, argv=argv)
    report(given.checkpoint_dir, as_json=given.json_)


def _audit(argv: list[str]) -> None:
    from coordinator_worker.audited import AuditSettings, show, verify

    own = argparse.ArgumentParser(
        prog="coordinator-worker audit", add_help=False, allow_abbrev=False
    )
    own.add_argument("version", nargs="?", type=int, metavar="VERSION", help="which model")
    own.add_argument(
        "--verify",
        action="store_true",
        help="check instead that no line was changed or taken out since it was written",
    )
    given, _ = settings.load(AuditSettings, description=AUDIT, argv=argv, own=own)
    probe = argparse.ArgumentParser(parents=[own], add_help=False, allow_abbrev=False)
    for flag in ("--checkpoint-dir", "--run", "--env-file", "--settings"):
        probe.add_argument(flag)  # or what follows one would be the version
    asked, _ = probe.parse_known_args(argv)
    if asked.verify:
        verify(given.checkpoint_dir)
    else:
        show(given.checkpoint_dir, asked.version, run=given.run, as_json=given.json_)


def _watch(argv: list[str]) -> None:
    from coordinator_worker.watch import watch

    given, _ = settings.load(settings.WorkerSettings, description=WATCH, argv=argv)
    stopped = threading.Event()
    service.on_stop_signal(lambda: threading.Thread(target=stopped.set).start())
    watch(given.broker, given.federation, stopped)


def _rejected(argv: list[str]) -> None:
    from coordinator_worker.rejected import delete_all, show

    own = _flags_of_rejected()
    given, _ = settings.load(settings.WorkerSettings, description=REJECTED, argv=argv, own=own)
    asked, _ = own.parse_known_args(argv)
    if asked.delete_all:
        delete_all(given.broker, given.federation, as_json=asked.json)
    else:
        show(given.broker, given.federation, limit=asked.limit, as_json=asked.json)


def _flags_of_rejected() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="coordinator-worker rejected", add_help=False, allow_abbrev=False
    )
    flags.add_argument("--json", action="store_true", help="for programs: an object a line")
    flags.add_argument(
        "--limit",
        type=_count,
        metavar="N",
        help="list the newest N only (default: 50, with --json all); the total counts all",
    )
    flags.add_argument(
        "--delete-all",
        action="store_true",
        help="instead of listing them, delete all rejected messages for good, unseen ones too; no"
        " model changes by it, only the record of what was rejected is gone",
    )
    return flags


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
