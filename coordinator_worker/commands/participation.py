"""``coordinator-worker participation``: who takes part, from the checkpoint."""

from coordinator_worker.terminal.participation import ReportSettings, report
from warren_shared.config import settings

ABOUT = (
    "Print who takes part, from the checkpoint: who is in the newest model, who is late, who has"
    " gone, who never came, and the share of the data that each of them stands for."
)


def run(argv: list[str]) -> None:
    """Print the report."""
    given, _ = settings.load(ReportSettings, description=ABOUT, argv=argv)
    report(given.checkpoint_dir, as_json=given.json_)
