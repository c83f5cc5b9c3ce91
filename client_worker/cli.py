"""The command ``client-worker``: take part in a federation, or look what would keep one from it."""

import sys
from typing import Final

from warren_shared.service import subcommands

COMMANDS: Final = {
    "evaluate": "what a model is worth on a task's validation data",
    "export": "a model from a file as Keras or TensorFlow loads it",
    "check": "what would keep the client from its work",
    "privacy": "what runs have claimed of this site's privacy",
    "install": "have systemd run the client",
}
DESCRIPTION: Final = (
    "Take part in a federation: receive each global model in this client's mailbox, train it on"
    " this client's own data, publish the weight delta. Flags that are not listed below belong to"
    " the task."
)


def main(argv: list[str] | None = None) -> int:
    """Run the client, or one of COMMANDS; return its exit code."""
    return subcommands.run("client-worker", "client_worker.commands", COMMANDS, _take_part, argv)


def _take_part(argv: list[str]) -> int:
    from client_worker import gpu
    from client_worker.runtime.worker import ClientWorker
    from client_worker.settings import ClientSettings
    from client_worker.tasks.task import TaskSource
    from warren_shared.config import settings
    from warren_shared.observability import log
    from warren_shared.service.lifecycle import say_started
    from warren_shared.service.malloc import keep_freed_memory

    given, rest = settings.load(
        ClientSettings, description=DESCRIPTION, argv=argv, keep_unknown=True, commands=COMMANDS
    )
    log.configure(given.log_format, given.log_level)
    gpu.choose(given.gpu)
    keep_freed_memory()  # before the task is imported, so that its framework's is kept as well
    worker = ClientWorker(given, TaskSource(given.task, rest))
    say_started(given.unknown_settings)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
