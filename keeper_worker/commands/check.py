"""``keeper-worker check``: what would keep this keeper from its work."""

from collections.abc import Iterator

from keeper_worker.check import check
from keeper_worker.settings import KeeperSettings
from warren_shared.config import settings
from warren_shared.service import health_check

ABOUT = (
    "Look for what would keep this keeper from its work: settings, keys, broker, permissions,"
    " folder. A line for each finding, ok, warn or FAIL; exit code 1 if one is a FAIL. May run"
    " beside the keeper; nothing is changed."
)


def run(argv: list[str]) -> None:
    """Print the findings."""
    own = health_check.json_flag("keeper-worker check")
    asked, words = own.parse_known_args(argv)

    def found() -> Iterator[health_check.Finding]:
        given, _ = settings.load(KeeperSettings, description=ABOUT, argv=words, own=own)
        yield from check(given)

    health_check.show(found(), as_json=asked.json)
