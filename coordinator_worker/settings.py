"""What ``coordinator-worker`` can be told."""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from shared.errors import ConfigError
from shared.layout import Layout, Weights
from shared.messages import Config, Setting
from shared.settings import Words, WorkerSettings

CONFIG: Final[TypeAdapter[dict[str, Setting]]] = TypeAdapter(Config, config=ConfigDict(strict=True))


class CoordinatorSettings(WorkerSettings):
    """Flags, environment and defaults of the coordinator."""

    quorum: int = Field(2, ge=1, description="aggregate as soon as this many updates are whole")
    rounds: int | None = Field(None, ge=1, description="stop after this many rounds")
    target: str | None = Field(
        None,
        description="stop when a metric that the clients report, averaged by their numbers of"
        " examples, gets there: NAME>=VALUE or NAME<=VALUE, such as eval_loss<=0.1",
    )
    max_staleness: int = Field(
        0, ge=0, description="accept updates up to this many versions late, at less weight"
    )
    staleness_exponent: float = Field(
        0.5, ge=0, description="a: an update s versions late weighs (1+s)^-a of a fresh one"
    )
    checkpoint_dir: Path = Field(
        Path("checkpoint"), description="folder of the checkpoint; a run goes on where it stopped"
    )
    initial_model: Path | None = Field(
        None,
        description="initial weights as .npz, one array per tensor in order; without it the first"
        " client that joins is asked for its own",
    )
    config: Words = Field(
        (), description="NAME=VALUE that every client's task is told with the model; repeatable"
    )


def parse_config(words: tuple[str, ...]) -> dict[str, Setting]:
    """``NAME=VALUE`` words as settings; numbers and true/false are read as such."""
    config: dict[str, Setting] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--config {word}: write it as NAME=VALUE")
        config[name] = _value(text)
    try:
        return CONFIG.validate_python(config)
    except ValidationError:
        raise ConfigError(
            "--config: at most 64 settings, names of up to 128 characters, values of up to 1024"
        ) from None


def _value(text: str) -> Setting:
    if text in {"true", "false"}:
        return text == "true"
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text) if len(text) < 19 else text  # msgpack knows 64 bits
    try:
        number = float(text)
    except ValueError:
        return text
    # A NaN is never equal to itself, so clients would make their task anew for every model.
    return number if isfinite(number) and "_" not in text else text


@dataclass(frozen=True)
class Target:
    """A goal for a metric: at least (or at most) ``value``."""

    metric: str
    at_least: bool
    value: float

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read ``NAME>=VALUE`` or ``NAME<=VALUE``."""
        matched = re.fullmatch(r"([\w.-]+)\s*(>=|<=)\s*([-+.\deE]+)", text)
        try:
            if matched is None:
                raise ValueError(text)
            return cls(matched[1], matched[2] == ">=", float(matched[3]))
        except ValueError:
            raise ConfigError(f"--target {text}: write NAME>=VALUE or NAME<=VALUE") from None

    def reached(self, metrics: Mapping[str, float]) -> bool:
        """Whether ``metrics`` reach the goal."""
        found = metrics.get(self.metric)
        if found is None:
            return False
        return found >= self.value if self.at_least else found <= self.value


def read_initial_model(path: Path) -> Weights:
    """Weights from a ``.npz`` file, in the order in which they were stored."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = list(arrays.files)
            tensors = [arrays[name] for name in names]
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise ConfigError(f"--initial-model {path} is not a readable .npz: {error}") from None
    return Weights.of(tensors, Layout.of(tensors, names))
