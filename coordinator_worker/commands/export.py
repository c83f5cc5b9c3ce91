"""``coordinator-worker export``: a version as a file for other programs."""

import argparse
from pathlib import Path

from coordinator_worker.versions.export import export
from coordinator_worker.versions.registry import MODEL_HELP, ModelRegistry, ModelSettings
from warren_shared.config import settings

ABOUT = (
    "Write a version of the model to a file, in the format that its name ends in: .npz,"
    " .safetensors; .keras, none for a folder with TensorFlow's SavedModel, .pt or .joblib. The"
    " latter four need --task, whose model it is, and client-worker with its framework beside us;"
    " flags that are not listed below belong to that task. May run beside the coordinator."
)


def run(argv: list[str]) -> None:
    """Write the file."""
    own = argparse.ArgumentParser(
        prog="coordinator-worker export", add_help=False, allow_abbrev=False
    )
    own.add_argument(
        "model", metavar="MODEL", nargs="?", default="current",
        help=f"{MODEL_HELP} (default: current)",
    )  # fmt: skip
    own.add_argument("--to", metavar="FILE", type=Path, required=True, help="where to write it")
    own.add_argument(
        "--task", metavar="TASK", help="whose architecture it is, as package.module:attribute"
    )
    given, rest = settings.load(
        ModelSettings, description=ABOUT, argv=argv, keep_unknown=True, own=own
    )
    asked = settings.own_words(own, ModelSettings, argv)
    model = ModelRegistry(given.checkpoint_dir).find(asked.model)
    export(model, asked.to, asked.task, rest)
    print(f"{model.name} is in {asked.to}")  # noqa: T201
