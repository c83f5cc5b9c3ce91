"""A version as a file for other programs.

Keras and TensorFlow's formats hold the architecture, too, which only the task knows: those are
written by ``client-worker export``, a separate program, since the coordinator never loads a
framework.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from coordinator_worker.versions.registry import Model
from warren_shared import weights_file
from warren_shared.errors import ConfigError, WarrenError

PROGRAM: Final = "client-worker"
PICKLED: Final = ".joblib"


def export(model: Model, to: Path, task: str | None, arguments: Sequence[str]) -> None:
    """Write ``model`` to ``to``, in the format that its ending says.

    Raises ConfigError if that needs a task and there is none; WarrenError if it cannot be written.
    """
    weights = weights_file.without_controls(model.weights)
    facts = {**model.facts, "digest": weights_file.digest_text(weights)}
    if to.suffix in weights_file.ENDINGS:
        if arguments:
            raise ConfigError(f"unknown option {arguments[0]}: see --help")
        try:
            weights_file.write(to, weights, facts)
        except OSError as error:
            raise WarrenError(f"--to {to} cannot be written: {error}") from None
        return
    if task is None:
        raise ConfigError(
            f"--to {to}: .npz and .safetensors hold weights; .keras and a SavedModel folder hold"
            " the architecture, too, .pt a whole state_dict and .joblib an estimator: give --task"
            " TASK, whose model it is"
        )
    with _room() as folder:
        whole = folder / f"{Path(model.name).stem.replace(' ', '-')}.safetensors"
        weights_file.write(whole, weights, facts)
        run_client("export", "--model", str(whole), "--to", str(to), "--task", task, *arguments)


@contextmanager
def weights_of(path: Path, task: str | None, arguments: Sequence[str]) -> Iterator[Path]:
    """A file of weights that we can read with what is in ``path``, which may be a ``.keras``."""
    if path.suffix == PICKLED:
        raise ConfigError(
            f"{path}: a {PICKLED} is a pickle, which is code that would run here: only written,"
            " never read; give a .npz or .safetensors of the same version"
        )
    if path.suffix in weights_file.ENDINGS or not path.exists():
        if arguments:
            raise ConfigError(f"unknown option {arguments[0]}: see --help")
        yield path
        return
    if task is None:
        raise ConfigError(
            f"{path}: the coordinator reads .npz and .safetensors; for a .keras or .pt give --task"
            " TASK, whose model it is"
        )
    with _room() as folder:
        whole = folder / "model.safetensors"
        run_client("export", "--model", str(path), "--to", str(whole), "--task", task, *arguments)
        yield whole


def run_client(*words: str) -> None:
    """Run ``client-worker``; raises ConfigError if there is none, WarrenError with what it said."""
    beside = Path(sys.executable).with_name(PROGRAM)
    program = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if program is None:
        raise ConfigError(
            "this needs client-worker and the task's framework, and they are not installed here:"
            " export a .safetensors, and run `client-worker export` where they are"
        )
    done = subprocess.run([program, *words], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = lines[-1] if lines else f"it ended with {done.returncode}"
        said = said.replace(f"{tempfile.gettempdir()}/", "")
        raise WarrenError(f"{PROGRAM}: {said.removeprefix(f'{PROGRAM} {words[0]}: ')}")


@contextmanager
def _room() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="warren-") as folder:
        yield Path(folder)
