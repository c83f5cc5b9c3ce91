"""``coordinator-worker diff``: how two models differ."""

import argparse

from pydantic import Field

from coordinator_worker.versions.diff import show
from coordinator_worker.versions.registry import MODEL_HELP, ModelRegistry, ModelSettings
from warren_shared.config import settings

ABOUT = (
    "Say how model B differs from model A, tensor by tensor, and what each is worth. Needs no"
    " broker, and may run beside the coordinator."
)


class DiffSettings(ModelSettings):
    """Flags of ``coordinator-worker diff``."""

    json_: bool = Field(False, description="for programs: a JSON object on one line")


def run(argv: list[str]) -> None:
    """Print the differences."""
    own = argparse.ArgumentParser(
        prog="coordinator-worker diff", add_help=False, allow_abbrev=False
    )
    own.add_argument("a", metavar="A", help=MODEL_HELP)
    own.add_argument("b", metavar="B", nargs="?", default="current", help="(default: current)")
    given, _ = settings.load(DiffSettings, description=ABOUT, argv=argv, own=own)
    asked = settings.own_words(own, DiffSettings, argv)
    show(ModelRegistry(given.checkpoint_dir), asked.a, asked.b, as_json=given.json_)
