"""A model from a file, in a file of another format: the weights from one, the rest from a task."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final

from pydantic import Field

from client_worker.client import FederatedClient
from client_worker.models import sklearn_file
from client_worker.tasks.task import TaskSource
from client_worker.training.exchange import ALL, TRAINABLE
from warren_shared import weights_file
from warren_shared.config.settings_model import Settings
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors import frozen
from warren_shared.tensors.frozen import FROZEN_WEIGHTS

KERAS: Final = ".keras"
SKLEARN: Final = sklearn_file.ENDING  # a fitted estimator, pickled
TORCH: Final = (".pt", ".pth")  # a PyTorch state_dict


class ExportSettings(Settings):
    """What ``client-worker export`` can be told."""

    SECTION: ClassVar[str] = "client"

    task: str = Field(description="whose model it is, as package.module:attribute")


def export(
    given: ExportSettings, arguments: list[str], model: Path | None, to: Path, exchange: str = ALL
) -> None:
    """Write the weights in ``model``, or the task's own, to ``to`` as its name's ending says.

    With ``exchange`` trainable only those that a federation with that ``--exchange`` begins with.

    Raises ConfigError if they are not the task's, or the task's model cannot be written so.
    """
    source = TaskSource(given.task, arguments)
    client = source.make(source.arguments({})).client()
    local = LocalTraining(exchange="trainable" if exchange == TRAINABLE else "all")
    base = client.fixed_state_for(local)
    if model is not None:
        load(client, model, f"--model {model}")
    try:
        if to.suffix in weights_file.ENDINGS:
            if client.fixed_state_for(local) != base:
                raise ConfigError(
                    f"--model {model} has other frozen weights than the task, and with --exchange"
                    " trainable no site would hear of them: load them in the task"
                )
            weights = client.weights(local)
            facts = {"digest": weights_file.digest_text(weights), **frozen.fact(base)}
            weights_file.write(to, weights, facts)
        elif exchange == TRAINABLE:
            raise ConfigError(
                f"--to {to}: .keras, .pt, .joblib and a SavedModel hold the whole model: leave out"
                " --exchange trainable, or name a .npz or .safetensors"
            )
        elif to.suffix in ("", KERAS, SKLEARN, *TORCH):
            _write_whole(client, to, given.task)
        else:
            raise ConfigError(
                f"--to {to}: name a .npz, .safetensors, .keras, .pt or .joblib, or a folder for a"
                " SavedModel"
            )
    except OSError as error:
        raise WarrenError(f"--to {to} cannot be written: {error}") from None


def load(client: FederatedClient, path: Path, named: str) -> None:
    """Give the client's model the weights in ``path``; raises ConfigError if they do not fit."""
    if path.suffix == SKLEARN:
        raise ConfigError(
            f"{named}: a {SKLEARN} is a pickle, which is code that would run here: only written,"
            " never read; give a .npz or .safetensors of the same version"
        )
    if path.suffix not in (KERAS, *TORCH):
        digest = weights_file.frozen_in(path)
        local = LocalTraining(exchange="all" if digest is None else "trainable")
        if digest is not None:
            client.check_fixed_state({**client.fixed_state, FROZEN_WEIGHTS: digest})
        found = weights_file.read(path, named, like=client.model_layout(local)).weights
        client.update(found, local)
        return
    kind, read = _whole(client, path, "read")
    if read is None:
        raise ConfigError(f"{named}: the task's model is none of {kind}")
    read(path, named)
    client.base_replaced()


def _write_whole(client: FederatedClient, to: Path, task: str) -> None:
    """The whole model as its framework loads it; Keras's formats hold the architecture, too."""
    kind, write = _whole(client, to, "write")
    if write is None:
        raise ConfigError(
            f"--to {to}: the model of --task {task} is none of {kind}; write .npz or .safetensors"
        )
    if not to.suffix and to.is_dir() and any(to.iterdir()) and not _is_saved_model(to):
        raise ConfigError(f"--to {to} is a folder with other things in it: name a new one")
    with tempfile.TemporaryDirectory(prefix=".export-", dir=to.parent) as room:
        made = Path(room) / to.name  # whole, or not there
        write(made)
        if to.is_dir():
            shutil.rmtree(to)
        made.replace(to)


def _whole(
    client: FederatedClient, path: Path, verb: str
) -> tuple[str, Callable[..., None] | None]:
    """Whose format ``path`` has, and the model's method that reads or writes it, if it has one."""
    if path.suffix == SKLEARN:
        kind = "SklearnModel, linear_regression, logistic_regression and softmax_regression"
        return kind, getattr(client.trainable, f"{verb}_sklearn", None)
    kind, method = ("PyTorch", "torch") if path.suffix in TORCH else ("Keras", "keras")
    return kind, getattr(client.trainable, f"{verb}_{method}", None)


def _is_saved_model(folder: Path) -> bool:
    return (folder / "saved_model.pb").exists()
