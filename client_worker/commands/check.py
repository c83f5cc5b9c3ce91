"""``client-worker check``: what would keep this client from its work."""

from collections.abc import Iterator

from client_worker import gpu
from client_worker.check import check
from client_worker.settings import ClientSettings
from warren_shared.config import settings
from warren_shared.service import health_check

ABOUT = (
    "Look for what would keep this client from its work: settings, broker, permissions, mailbox,"
    " task, folder. A line for each finding, ok, warn or FAIL; exit code 1 if one is a FAIL."
    " Nothing is taken out of the mailbox, but no other process can read it meanwhile. Flags that"
    " are not listed below belong to the task."
)


def run(argv: list[str]) -> None:
    """Print the findings."""
    own = health_check.json_flag("client-worker check")
    own.add_argument("--no-train", action="store_true", help="make the task, but do not train it")
    asked, words = own.parse_known_args(argv)

    def found() -> Iterator[health_check.Finding]:
        given, rest = settings.load(
            ClientSettings, description=ABOUT, argv=words, keep_unknown=True, own=own
        )
        gpu.choose(given.gpu)
        yield from check(given, rest, train=not asked.no_train)

    health_check.show(found(), as_json=asked.json)
