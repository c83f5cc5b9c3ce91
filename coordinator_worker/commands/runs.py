"""``coordinator-worker runs``: many runs side by side."""

from pathlib import Path

from pydantic import Field

from coordinator_worker.versions.runs import show
from warren_shared.config import settings
from warren_shared.config.settings_model import Settings

ABOUT = (
    "List the runs whose checkpoint folders are under one folder: how far each is, what it is"
    " worth, in which settings they differ, and why one ended. A run is named by its folder, so"
    " start each with a --checkpoint-dir of its own. Needs no broker."
)


class RunsSettings(Settings):
    """Flags of ``coordinator-worker runs``."""

    runs_dir: Path = Field(Path(), description="folder under which the checkpoint folders are")
    json_: bool = Field(False, description="for programs: a JSON object a line")


def run(argv: list[str]) -> None:
    """Print the list."""
    given, _ = settings.load(RunsSettings, description=ABOUT, argv=argv)
    show(given.runs_dir, as_json=given.json_)
