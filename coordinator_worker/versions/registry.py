"""The models of a federation that are still there, by the words that name them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from pydantic import Field

from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.storage import checkpoint, version_archive
from coordinator_worker.storage.store import BEST_FILE
from coordinator_worker.storage.version_archive import kept_in
from warren_shared import weights_file
from warren_shared.config.settings_model import Settings
from warren_shared.errors import ConfigError
from warren_shared.tensors import frozen
from warren_shared.tensors.layout import Weights

MODEL_HELP: Final = "a version's number, best, current, or a file (.npz, .safetensors)"


class ModelSettings(Settings):
    """What the commands about models can be told."""

    SECTION: ClassVar[str] = "coordinator"

    checkpoint_dir: Path = Field(
        Path("checkpoint"), description="the coordinator's checkpoint folder"
    )


@dataclass(frozen=True)
class Model:
    """One model: what it is called, its weights, and what is known of it.

    ``version`` is None of a file that a person brought. ``facts``: the metadata of its file.
    """

    name: str
    weights: Weights
    version: int | None
    facts: weights_file.Facts


class ModelRegistry:
    """The checkpoint in ``folder``, which may be in use, and the past versions beside it.

    Raises ConfigError if there is no checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        state = checkpoint.load(folder) if folder.is_dir() else None
        if state is None:
            raise ConfigError(f"--checkpoint-dir {folder} holds no checkpoint yet")
        self.folder = folder
        self.state = state
        self.kept = {
            kept.version: kept
            for kept in kept_in(folder, state.run)
            if kept.version <= state.version
        }

    def number(self, wanted: str) -> int | None:
        """The version that ``wanted`` names; None if it is none of a version."""
        if wanted == "current":
            return self.state.version
        if wanted == "best":
            if self.state.best is None:
                raise ConfigError("no version is known to be the best: start with --monitor")
            return self.state.best.version
        return int(wanted) if wanted.isascii() and wanted.isdecimal() else None

    def find(self, wanted: str) -> Model:
        """The model that ``wanted`` names: a version's number, ``best``, ``current``, or a file.

        Raises ConfigError if there is none, or it does not fit the federation's model.
        """
        version = self.number(wanted)
        if version is None:
            return self._brought(Path(wanted))
        if version == self.state.version:
            return self._current()
        if version in self.kept:
            path = self.kept[version].path
            found = weights_file.read(path, like=self.state.weights.layout)
            return Model(f"version {version}", found.weights, version, found.facts)
        if wanted == "best" and (path := self.folder / BEST_FILE).exists():
            weights = weights_file.read(path, like=self.state.weights.layout).weights
            self._check_best(path, weights)
            facts = {"federation": self.state.federation, "run": self.state.run}
            facts |= {"version": str(version), "digest": weights_file.digest_text(weights)}
            facts |= frozen.fact(self.state.fixed_state)
            return Model(f"version {version}", weights, version, facts)
        raise ConfigError(
            f"version {version} is not kept: there are {self._there()}; --keep-versions and"
            " --keep-every say how many are"
        )

    def _check_best(self, path: Path, weights: Weights) -> None:
        """The copy is written before the checkpoint that says so, and a crash may come in between.

        It is the newest version then, which must not go under the number of the best before it.
        """
        newest = self.state
        is_newest = weights.buffer.tobytes() == newest.weights.buffer.tobytes()
        record = self.record(newest.version)
        is_both = record is not None and record.diverged  # it has the weights of the one before
        if is_newest and not is_both:
            raise ConfigError(
                f"{path} is version {newest.version}, which was about to become the best when the"
                " coordinator ended: name it by its number, or let the coordinator go on first"
            )

    def record(self, version: int) -> RoundRecord | None:
        """What is known of the round that made ``version``; None if nothing is."""
        for record in self.state.history:
            if record.version == version:
                return record
        return self.kept[version].record if version in self.kept else None

    def metrics(self, version: int) -> dict[str, float]:
        """Training's metrics on the way to ``version``, and as ``eval_…`` what it is worth.

        The latter are in the record of a later round: clients judge a model when they have it.
        """
        own = self.record(version)
        copied = own.rolled_back.version if own is not None and own.rolled_back else None
        if copied is not None and copied < version:
            return self.metrics(copied)  # it is the same model
        made = own.metrics if own is not None else {}
        found = {name: value for name, value in made.items() if not name.startswith("eval_")}
        for record in self.state.history:
            if record.evaluation is not None and record.evaluation.version == version:
                judged = record.metrics.items()
                found |= {name: value for name, value in judged if name.startswith("eval_")}
        if own is None:
            return found
        if own.final_evaluation is not None:
            found |= own.final_evaluation.metrics
        said = (own.evaluated or {}).items()
        return found | {f"evaluate_{name}": value for name, value in said}

    def made_at(self, version: int) -> str:
        """When ``version`` was made, UTC, as ISO 8601; empty if unknown."""
        if version in self.kept:
            return self.kept[version].facts.get("time", "")
        if version == self.state.version:
            newest = max((member.seen for member in self.state.roster.values()), default=0.0)
            return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(newest)) if newest else ""
        return ""

    def _current(self) -> Model:
        state = self.state
        digest = int(weights_file.digest_text(state.weights), 16)
        facts = version_archive.facts(state, digest, self.made_at(state.version))
        return Model(f"version {state.version}", state.weights, state.version, facts)

    def _brought(self, path: Path) -> Model:
        if not path.exists():
            raise ConfigError(f"{path} is neither a version ({self._there()}) nor a file")
        ours, theirs = frozen.fact(self.state.fixed_state), weights_file.frozen_in(path)
        if ours and theirs != ours[frozen.FACT]:
            told = "other frozen weights" if theirs else "no frozen weights, as a whole model's"
            raise ConfigError(
                f"{path} names {told}, and this run exchanges only what trains beside its own: give"
                " a file that `client-worker export --exchange trainable` has made at a site"
            )
        if not ours and not frozen.is_whole({frozen.FACT: theirs} if theirs else {}):
            raise ConfigError(f"{path} holds only the tensors that train, this run's models all")
        found = weights_file.read(path, like=self.state.weights.layout)
        return Model(path.name, found.weights, None, found.facts)

    def _there(self) -> str:
        numbers = sorted({*self.kept, self.state.version})
        return ", ".join(map(str, numbers))
