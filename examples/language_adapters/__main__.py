"""Adapters of a small language model: ``python -m warren_examples.language_adapters``."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from coordinator_worker.state.training_state import State
from coordinator_worker.text.formatting import size
from warren_examples.language_adapters import SITES
from warren_examples.stage.fleet import FleetStage, fleet_stage
from warren_shared.service import lifecycle

ROUNDS, LOCAL_STEPS = 20, 5
ADAPTER_RATE, FULL_RATE = 2e-2, 1e-3
NAME = "language_adapters"


class Row(NamedTuple):
    """One line of the table: how a model was trained, and what it is worth."""

    name: str
    update_bytes: int | None  # of one site's update as it is sent
    accuracy: float
    perplexity: float
    worst: float  # accuracy at the site where it is lowest


def play(given: argparse.Namespace) -> None:
    """The base, adapters federated with raw and with encoded updates, and what is in one place."""
    from warren_examples.language_adapters import model as reader

    given.out.mkdir(parents=True, exist_ok=True)
    file = pre_trained(given.out, given.base_steps)
    rounds = given.rounds
    full_bytes = sum(array.nbytes for array in reader.base(file).get_weights())
    rows = [worth("base, not adapted", None, reader.base(file))]
    with fleet_stage(given.out, "site", len(SITES), model_bytes=full_bytes) as stage:
        for name, uplink in (("federated adapters", "raw"), ("the same, --uplink 1bit", "1bit")):
            state = federated(stage, file, rounds, uplink)
            model = reader.adapted(file)
            for variable, array in zip(model.trainable_variables, state.weights, strict=True):
                variable.assign(array)
            sent = state.history[0].bytes_up // len(SITES)
            rows.append(worth(name, sent, model))
    steps = rounds * LOCAL_STEPS * len(SITES)
    text = pooled(0)
    for name, model, rate in (
        ("adapters, all text pooled", reader.adapted(file), ADAPTER_RATE),
        ("these layers whole, pooled", reader.thawed(file), FULL_RATE),
    ):
        print(f"{steps} steps in one place: {name}")
        trained = reader.fitted(model, text, steps, falling(rate, steps), seed=1)
        exchanged = sum(int(np.prod(one.shape)) * 4 for one in trained.trainable_variables)
        rows.append(worth(name, exchanged, trained))
    show(rows, full_bytes)


def pre_trained(out: Path, steps: int) -> Path:
    """The file of the base; trained now unless an earlier run of the same text and recipe did."""
    from warren_examples.language_adapters import model as reader
    from warren_examples.language_adapters.text import common, origin

    file = reader.cached(out, origin(), steps)
    if file.exists():
        print(f"the base is in {file}")
        return file
    print(f"{steps} steps: the base, on docstrings of {origin()}")
    began = time.monotonic()
    reader.pre_train(file, common(), steps)
    print(f"the base is in {file}, after {time.monotonic() - began:.0f} s")
    return file


def federated(stage: FleetStage, file: Path, rounds: int, uplink: str) -> State:
    """The last state of a run in which only what trains travels."""
    print(f"{rounds} rounds of {LOCAL_STEPS} steps at four sites, --uplink {uplink}")
    module = "warren_examples.language_adapters.task:reader"
    task = (module, "--base", str(file.resolve()), "--learning-rate", str(ADAPTER_RATE))
    told = ("--quorum", str(len(SITES)), "--rounds", str(rounds), "--exchange", "trainable")
    told += ("--local-steps", str(LOCAL_STEPS), "--uplink", uplink)
    told += ("--learning-rate-schedule", f"cosine:rounds={rounds},floor=0.05")
    return stage.run(f"adapters-{uplink}", task, told, processes=2)


def pooled(part: int) -> Any:
    """All sites' text in one place: what they train on (0), or what they hold out (1)."""
    from warren_examples.language_adapters.text import site

    parts = [site(name)[part] for name in SITES]
    return tuple(np.concatenate([each[side] for each in parts]) for side in (0, 1))


def falling(rate: float, steps: int) -> Any:
    """A learning rate that falls as that of the federated rounds does."""
    import keras

    return keras.optimizers.schedules.CosineDecay(rate, steps, alpha=0.05)


def worth(name: str, update_bytes: int | None, model: Any) -> Row:
    """What ``model`` is worth on the text that the sites hold out, together and at its worst."""
    from warren_examples.language_adapters import model as reader
    from warren_examples.language_adapters.text import site

    accuracy, perplexity = reader.judged(model, pooled(1))
    worst = min(reader.judged(model, site(name)[1])[0] for name in SITES)
    return Row(name, update_bytes, accuracy, perplexity, worst)


def show(rows: Sequence[Row], full_bytes: int) -> None:
    """Print the table."""
    title = f"The next byte of four packages' docstrings ({size(full_bytes)} of weights)"
    columns = ("model", "an update", "of all weights", "accuracy", "worst site", "perplexity")
    table = Table(*columns, title=title)
    for row in rows:
        sent = ("", "")
        if row.update_bytes is not None:
            sent = (f"{row.update_bytes:,} bytes", f"{row.update_bytes / full_bytes:.2%}")
        figures = (f"{row.accuracy:.2%}", f"{row.worst:.2%}", f"{row.perplexity:.3f}")
        table.add_row(row.name, *sent, *figures)
    Console(width=110).print(table)


def main(argv: Sequence[str]) -> int:
    """Run the example; return the exit code."""
    flags = argparse.ArgumentParser(
        prog=f"python -m warren_examples.{NAME}", description=__doc__, allow_abbrev=False
    )
    flags.add_argument("--out", type=Path, default=Path("runs/language-adapters"),
                       help="folder for the base, checkpoints and logs")  # fmt: skip
    flags.add_argument("--rounds", type=int, default=ROUNDS)
    flags.add_argument("--base-steps", type=int, default=1200, help="of training the base")
    given = flags.parse_args(argv)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    for number in (signal.SIGTERM, signal.SIGHUP):  # leave nothing running then either
        signal.signal(number, signal.default_int_handler)
    return lifecycle.run(NAME, lambda: play(given))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
