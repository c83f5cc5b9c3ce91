"""``coordinator-worker card``: a model card, from the history of the run."""

import argparse
import sys
import time
from pathlib import Path

from coordinator_worker.versions.model_card import card
from coordinator_worker.versions.registry import ModelRegistry, ModelSettings
from warren_shared.config import settings
from warren_shared.errors import WarrenError

ABOUT = (
    "Write a model card in Markdown: what the model is, who trained it on how much data, how, with"
    " which result, and what is known of its provenance. Clients are numbered, not named, unless"
    " you say --names. It begins with what Hugging Face's hub reads. The last section is for you to"
    " fill in. May run beside the coordinator."
)


def run(argv: list[str]) -> None:
    """Write the card."""
    own = argparse.ArgumentParser(
        prog="coordinator-worker card", add_help=False, allow_abbrev=False
    )
    own.add_argument(
        "model", metavar="MODEL", nargs="?", default="current",
        help="a version's number, best or current (default: current)",
    )  # fmt: skip
    own.add_argument(
        "--to", metavar="FILE", type=Path, help="where to write it (default: standard output)"
    )
    own.add_argument("--names", action="store_true", help="call clients by their names")
    own.add_argument(
        "--license", metavar="ID", help="for Hugging Face's hub, such as apache-2.0; else none"
    )
    own.add_argument(
        "--library-name", metavar="NAME", help="what loads the model, for the hub, such as keras"
    )
    given, _ = settings.load(ModelSettings, description=ABOUT, argv=argv, own=own)
    asked = settings.own_words(own, ModelSettings, argv)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    text = card(
        ModelRegistry(given.checkpoint_dir), asked.model, names=asked.names, day=day,
        license_id=asked.license, library=asked.library_name,
    )  # fmt: skip
    if asked.to is None:
        sys.stdout.write(text)
        return
    try:
        asked.to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WarrenError(f"--to {asked.to} cannot be written: {error}") from None
    print(f"the card is in {asked.to}; its last section is yours to write")  # noqa: T201
