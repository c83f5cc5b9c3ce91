"""The command ``client-worker``."""

import argparse
import json
import sys
from collections.abc import Iterator

from shared import service

DESCRIPTION = (
    "Take part in a federation: receive each global model in this client's mailbox, train it on"
    " this client's own data, publish the weight delta. Flags that are not listed below belong to"
    " the task. `client-worker check` looks for what would keep it from all that."
)
EVALUATE = (
    "Print what a model is worth on the validation data of a task, as a JSON object of figures."
    " Flags that are not listed below belong to the task."
)

CHECK = (
    "Look for what would keep this client from its work: settings, broker, permissions, mailbox,"
    " task, folder. A line for each finding, ok, warn or FAIL; exit code 1 if one is a FAIL."
    " Nothing is taken out of the mailbox, but nobody else can read it meanwhile. Flags that are"
    " not listed below belong to the task."
)


def main(argv: list[str] | None = None) -> int:
    """Run the client; return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["evaluate"]:
        return service.run("client-worker evaluate", lambda: _evaluate(words[1:]))
    if words[:1] == ["check"]:
        return service.run("client-worker check", lambda: _check(words[1:]))
    return service.run("client-worker", lambda: _main(words))


def _main(argv: list[str]) -> None:
    from client_worker.settings import ClientSettings
    from client_worker.task import TaskSource
    from client_worker.worker import ClientWorker
    from shared import log, settings
    from shared.memory import keep_freed_memory

    given, rest = settings.load(
        ClientSettings, description=DESCRIPTION, argv=argv, keep_unknown=True
    )
    log.configure(given.log_format, given.log_level)
    keep_freed_memory()  # before the task is imported, so that its framework's is kept as well
    ClientWorker(given, TaskSource(given.task, rest)).run()


def _evaluate(argv: list[str]) -> None:
    from client_worker.evaluate import EvaluateSettings, evaluate
    from shared import settings

    given, rest = settings.load(
        EvaluateSettings, description=EVALUATE, argv=argv, keep_unknown=True
    )
    print(json.dumps(evaluate(given, rest)))


def _check(argv: list[str]) -> None:
    from client_worker.check import check
    from client_worker.settings import ClientSettings
    from shared import findings, settings

    own = argparse.ArgumentParser(prog="client-worker check", add_help=False, allow_abbrev=False)
    own.add_argument("--no-train", action="store_true", help="make the task, but do not train it")
    asked, words = own.parse_known_args(argv)

    def found() -> Iterator[findings.Finding]:
        given, rest = settings.load(
            ClientSettings, description=CHECK, argv=words, keep_unknown=True, own=own
        )
        yield from check(given, rest, train=not asked.no_train)

    findings.show(found())


if __name__ == "__main__":
    sys.exit(main())
