"""``coordinator-worker rollback``: go on from an older version."""

import argparse

from coordinator_worker.versions.registry import MODEL_HELP, ModelSettings
from coordinator_worker.versions.rollback import rollback
from warren_shared.config import settings

ABOUT = (
    "Make the next version of an older one: it has the older one's weights and a new number,"
    " and is what the coordinator publishes when it starts again. The server optimizer is reset,"
    " and updates trained from what was rolled back do not count. Stop the coordinator first."
)


def run(argv: list[str]) -> None:
    """Roll back, and say what to do next."""
    own = argparse.ArgumentParser(
        prog="coordinator-worker rollback", add_help=False, allow_abbrev=False
    )
    own.add_argument("model", metavar="MODEL", help=f"what to go back to: {MODEL_HELP}")
    own.add_argument(
        "--after",
        metavar="VERSION",
        type=int,
        help="a version that is out and that this folder has lost: the new one comes after it",
    )
    given, _ = settings.load(ModelSettings, description=ABOUT, argv=argv, own=own)
    asked = settings.own_words(own, ModelSettings, argv)
    state = rollback(given.checkpoint_dir, asked.model, asked.after)
    source = state.rolled_back.source if state.rolled_back is not None else "another version"
    print(  # noqa: T201
        f"version {state.version} has the weights of {source}: start the coordinator, and it goes"
        " on from there"
    )
