"""``coordinator-worker versions``: which versions of the model there are."""

from pydantic import Field

from coordinator_worker.versions.listing import show
from coordinator_worker.versions.registry import ModelSettings
from warren_shared.config import settings

ABOUT = (
    "List the versions of the model in the checkpoint folder: when each was made, of what, and what"
    " it is worth. Metrics named eval_… are those of the version itself, the others those of the"
    " training that made it. Needs no broker, and may run beside the coordinator."
)


class VersionsSettings(ModelSettings):
    """Flags of ``coordinator-worker versions``."""

    json_: bool = Field(False, description="for programs: a JSON object a line")


def run(argv: list[str]) -> None:
    """Print the list."""
    given, _ = settings.load(VersionsSettings, description=ABOUT, argv=argv)
    show(given.checkpoint_dir, as_json=given.json_)
