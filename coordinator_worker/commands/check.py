"""``coordinator-worker check``: what would keep this coordinator from its work."""

from collections.abc import Iterator

from coordinator_worker.check import check
from coordinator_worker.settings import CoordinatorSettings
from warren_shared.config import settings
from warren_shared.service import health_check

ABOUT = (
    "Look for what would keep this coordinator from its work: settings, broker, permissions,"
    " checkpoint folder. A line for each finding, ok, warn or FAIL; exit code 1 if one is a FAIL."
    " May run beside the coordinator; nothing is changed."
)


def run(argv: list[str]) -> None:
    """Print the findings."""
    own = health_check.json_flag("coordinator-worker check")
    asked, words = own.parse_known_args(argv)

    def found() -> Iterator[health_check.Finding]:
        given, _ = settings.load(CoordinatorSettings, description=ABOUT, argv=words, own=own)
        yield from check(given)

    health_check.show(found(), as_json=asked.json)
