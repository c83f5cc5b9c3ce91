"""The command ``coordinator-worker``: coordinate, or look at a federation from anywhere."""

import sys
from typing import TYPE_CHECKING, Final

from warren_shared.config import settings
from warren_shared.observability import log
from warren_shared.service import subcommands

if TYPE_CHECKING:
    from coordinator_worker.runtime.worker import CoordinatorWorker
    from coordinator_worker.settings import CoordinatorSettings

COMMANDS: Final = {
    "demo": "a broker, four clinics and a coordinator on this machine, with real data",
    "watch": "a running federation, live in the terminal",
    "dashboard": "a running federation in a browser",
    "alarm": "tell a program or an address when something is gone",
    "participation": "who takes part, who is late, who has gone",
    "privacy": "what a private run promises, and what of it is spent",
    "rejected": "what was rejected, and why",
    "history": "the figures of each round, also as CSV, JSON or TensorBoard curves",
    "audit": "whose updates made a model",
    "runs": "many runs side by side: figures, settings that differ, why one ended",
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
    return subcommands.run(
        "coordinator-worker", "coordinator_worker.commands", COMMANDS, _coordinate, argv
    )


def _coordinate(argv: list[str]) -> int:
    from coordinator_worker.runtime.worker import CoordinatorWorker
    from coordinator_worker.settings import CoordinatorSettings
    from warren_shared.service.lifecycle import say_started
    from warren_shared.service.malloc import keep_freed_memory

    given, _ = settings.load(
        CoordinatorSettings, description=DESCRIPTION, argv=argv, commands=COMMANDS
    )
    log.configure(given.log_format, given.log_level)
    keep_freed_memory(one_arena=True)
    worker = CoordinatorWorker.from_settings(given) if given.parent is None else _region(given)
    say_started(given.unknown_settings)
    return worker.run()


def _region(given: "CoordinatorSettings") -> "CoordinatorWorker":
    from coordinator_worker.runtime.upstream import (
        region,  # and with it the client's side
    )

    return region(given)


if __name__ == "__main__":
    sys.exit(main())
