"""The command ``keeper-worker``: keep the seeds of masks, or look what would keep one from it."""

import sys
from typing import Final

from warren_shared.service import subcommands

COMMANDS: Final = {
    "keys": "make the keeper's keys, and print what others need of them",
    "check": "what would keep the keeper from its work",
    "install": "have systemd run the keeper",
}
DESCRIPTION: Final = (
    "Keep the seeds of the masks that clients put on their updates, and give the coordinator sums"
    " of masks over enough clients, each update in one sum alone. The keeper sees no update, and"
    " belongs to another organisation than the coordinator."
)


def main(argv: list[str] | None = None) -> int:
    """Run the keeper, or one of COMMANDS; return its exit code."""
    return subcommands.run("keeper-worker", "keeper_worker.commands", COMMANDS, _keep, argv)


def _keep(argv: list[str]) -> int:
    from keeper_worker.runtime.worker import KeeperWorker
    from keeper_worker.settings import KeeperSettings
    from warren_shared.config import settings
    from warren_shared.observability import log
    from warren_shared.service.lifecycle import say_started
    from warren_shared.service.malloc import keep_freed_memory

    given, _ = settings.load(KeeperSettings, description=DESCRIPTION, argv=argv, commands=COMMANDS)
    log.configure(given.log_format, given.log_level)
    keep_freed_memory(one_arena=True)
    worker = KeeperWorker.from_settings(given)
    say_started(given.unknown_settings)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
