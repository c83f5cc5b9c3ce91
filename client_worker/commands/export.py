"""``client-worker export``: a model from a file as Keras or TensorFlow loads it."""

import argparse
from pathlib import Path

from client_worker.export import ExportSettings, export
from client_worker.training.exchange import ALL, TRAINABLE
from warren_shared.config import settings

ABOUT = (
    "Write the weights in a file as another program loads them, with the architecture of a task:"
    " .keras for keras.saving.load_model, a name without an ending for a folder with TensorFlow's"
    " SavedModel; .pt for the state_dict of a PyTorch module; .joblib for a scikit-learn estimator;"
    " or as .npz or .safetensors. Flags that are not listed below belong to the task."
)


def run(argv: list[str]) -> None:
    """Write the file."""
    own = argparse.ArgumentParser(prog="client-worker export", add_help=False, allow_abbrev=False)
    own.add_argument(
        "--model", metavar="FILE", type=Path,
        help="weights as .npz, .safetensors, .keras or .pt; without it the task's own",
    )  # fmt: skip
    own.add_argument("--to", metavar="FILE", type=Path, required=True, help="where to write them")
    own.add_argument(
        "--exchange", choices=(ALL, TRAINABLE), default=ALL,
        help="which tensors: all, or those that train, for a coordinator with --exchange trainable"
        " (default: all)",
    )  # fmt: skip
    given, rest = settings.load(
        ExportSettings, description=ABOUT, argv=argv, keep_unknown=True, own=own
    )
    asked = settings.own_words(own, ExportSettings, argv)
    export(given, rest, asked.model, asked.to, asked.exchange)
    print(f"{asked.model or 'the model of ' + given.task} is in {asked.to}")  # noqa: T201
