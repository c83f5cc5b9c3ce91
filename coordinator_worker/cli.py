"""The command ``coordinator-worker``: coordinate, or look at a federation from anywhere."""

import sys
from typing import TYPE_CHECKING, Final

from shared import commands, log, settings

if TYPE_CHECKING:
    from coordinator_worker.settings import CoordinatorSettings
    from coordinator_worker.worker import CoordinatorWorker

COMMANDS: Final = {
    "watch": "a running federation, live in the terminal",
    "dashboard": "a running federation in a browser",
    "participation": "who takes part, who is late, who has gone",
    "rejected": "what was rejected, and why",
    "history": "the figures of each round, also as CSV, JSON or TensorBoard curves",
    "audit": "whose updates made a model",
    "versions": "which versions of the model there are",
    "diff": "how two versions differ",
    "export": "a version as a file for other programs",
    "import": "begin a run with weights from a file",
    "rollback": "go on from an older version",
    "card": "a model card, from the history of the run",
    "check": "what would keep the coordinator from its work",
    "install": "have systemd run the coordinator",
}
DESCRIPTION: Final = (
    "Coordinate a federation: take weight deltas from the queue `update`, fold them, and at each"
    " quorum checkpoint the new global model and publish it to every client's mailbox."
)


def main(argv: list[str] | None = None) -> int:
    """Run the coordinator, or one of COMMANDS; return its exit code."""
    return commands.run(
        "coordinator-worker", "coordinator_worker.commands", COMMANDS, _coordinate, argv
    )


def _coordinate(argv: list[str]) -> int:
    from coordinator_worker.settings import CoordinatorSettings
    from coordinator_worker.worker import CoordinatorWorker
    from shared.memory import keep_freed_memory
    from shared.service import say_started

    given, _ = settings.load(
        CoordinatorSettings, description=DESCRIPTION, argv=argv, commands=COMMANDS
    )
    log.configure(given.log_format, given.log_level)
    keep_freed_memory(one_arena=True)
    worker = CoordinatorWorker(given) if given.parent is None else _region(given)
    say_started(given.strays)
    return worker.run()


def _region(given: "CoordinatorSettings") -> "CoordinatorWorker":
    from coordinator_worker.region import RegionCoordinator  # and with it the client's side

    return RegionCoordinator(given)


if __name__ == "__main__":
    sys.exit(main())
