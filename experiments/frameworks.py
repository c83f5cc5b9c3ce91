"""One convolutional network with batch normalization in Keras and in PyTorch.

``python -m experiments.frameworks --data FOLDER``: the same federation (the same images at the same
clients, the same rate, batches and rounds, initial weights drawn by the same rules) trained with
`KerasTask` and with `TorchTask`, on Fashion-MNIST dealt out by a Dirichlet draw. The two frameworks
are in environments of their own; PyTorch's is that of `make test-torch`.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

import numpy as np

from experiments.command import run
from experiments.framework_sites import BATCH, EPSILON, MOMENTUM, RATE, SHORT, Scale
from experiments.pictures import Panel
from experiments.report import Findings, Table

TORCH: Final = Path(".venv-torch/bin/python")
NAMES: Final = {"keras": "Keras", "torch": "PyTorch"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Each framework in a process of its own."""
    scale = SHORT if short else Scale()
    # What a test of this program runs has no PyTorch beside it.
    names = [name for name in NAMES if name == "keras" or TORCH.exists() or not short]
    found = {name: _part(name, data, short) for name in names}
    rows: list[list[str | float | None]] = []
    lines = {}
    for name, each in found.items():
        last = [curve[-1] for curve in each]
        rows.append([NAMES[name], fmean(last), stdev(last) if len(last) > 1 else 0.0, min(last),
                     max(last)])  # fmt: skip
        lines[NAMES[name]] = (list(range(1, scale.rounds + 1)), np.mean(each, axis=0).tolist())
    reached = {"rounds": str(scale.rounds)}
    if len(found) == len(NAMES):
        apart = fmean(c[-1] for c in found["torch"]) - fmean(c[-1] for c in found["keras"])
        spread = max(float(row[2] or 0) for row in rows)
        reached = {"PyTorch minus Keras, wanted within the spread of seeds":
                   f"{apart:+.4f} (a seed's deviation {spread:.4f})"}  # fmt: skip
    return Findings(
        "frameworks", "The same network in Keras and in PyTorch",
        {
            **asdict(scale), "model": "convolutions of 16 and 32, batch normalization after each, a"
            " layer of 64", "local": f"E=1, B={BATCH}, rate {RATE}",
            "statistics": f"momentum {MOMENTUM}, epsilon {EPSILON}",
        },
        [Table("Accuracy on the test images after the last round",
               ["framework", "mean of seeds", "± of a seed", "least", "most"], rows)],
        [Panel("Test images", "round", "accuracy", lines)],
        reached,
    )  # fmt: skip


def _part(framework: str, data: Path, short: bool) -> list[list[float]]:
    program = sys.executable if framework == "keras" else str(TORCH)
    words = ["experiments.framework_sites", framework, str(data), "short" if short else "whole"]
    told = subprocess.check_output([program, "-m", *words], text=True)
    found: list[list[float]] = json.loads(told.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
