"""What a run has come to: the model, the figures of each round, and a few words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import numpy as np

from client_worker.client import FederatedClient
from client_worker.tasks.hooks import by_name
from client_worker.tasks.task import TaskSource
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.versions.history import Row, aligned
from warren_fl.curve import Curve
from warren_fl.settings import Site, task_words
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import Array


@dataclass(frozen=True)
class Result:
    """The outcome of one run.

    ``version``: how many rounds its model has seen. ``history``: a dict for each version, of which
    `pandas.DataFrame` makes a table: ``version``, ``updates``, ``seconds``, ``metric/NAME``, …
    ``seconds``: from the start of the coordinator to its end. ``reason``: why it ended.
    """

    version: int
    history: Sequence[Row]
    seconds: float
    reason: str
    updates: int
    bytes_up: int
    bytes_down: int
    state: State = field(repr=False)
    site: Site | None = field(repr=False, default=None)
    exchange: str = "all"
    config: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @cached_property
    def weights(self) -> dict[str, Array]:
        """The final model's arrays by name of the tensor, in the model's order."""
        return {name: np.array(array) for name, array in by_name(self.state.weights).items()}

    @cached_property
    def model(self) -> Any:
        """The Keras model with these weights, if the task's is one; else `weights`.

        The task of the first client is made for it in this process, with which TensorFlow is
        imported. Tensors that stay at the sites are as that task begins with them.

        Raises:
            ConfigError: the task cannot be made here.
        """
        client = self._client()
        if client is None or not _is_keras(client):
            return self.weights
        local = LocalTraining(exchange="trainable" if self.exchange == "trainable" else "all")
        client.update(list(by_name(self.state.weights).values()), local)
        return getattr(client.trainable, "model", client.model)

    def _client(self) -> FederatedClient | None:
        if self.site is None:
            return None
        task, arguments = self.site.task, self.site.arguments
        if isinstance(task, str):
            source = TaskSource(task, task_words(arguments))
        else:
            source = TaskSource.of(task, arguments)
        place = {"shard": self.site.place} if self.site.place is not None else {}
        if not source.takes("shard"):
            place = {}
        return source.make(source.arguments({**self.config, **place})).client()

    @property
    def metrics(self) -> dict[str, float]:
        """The newest figure of each metric."""
        found: dict[str, float] = {}
        for row in self.history:
            for name, value in row.items():
                if name.startswith("metric/") and isinstance(value, (int, float)):
                    found[name.removeprefix("metric/")] = float(value)
        return found

    @property
    def report(self) -> str:
        """Rounds, updates, bytes, seconds, why it ended, and the newest metrics, in words."""
        told = ", ".join(f"{name} {value:.4g}" for name, value in sorted(self.metrics.items()))
        return (
            f"{self.version} rounds, {self.updates} updates, {self.seconds:.1f} s;"
            f" {_bytes(self.bytes_up)} came in, {_bytes(self.bytes_down)} went out."
            f" It ended: {self.reason}." + (f" Last: {told}." if told else "")
        )

    def plot(self, *metrics: str) -> Curve:
        """A curve of ``metrics`` by version, all of one scale; without names those of the losses.

        Raises:
            ConfigError: no round has such a metric.
        """
        return Curve.of(self.history, metrics)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        try:
            drawn = self.plot().svg()
        except ConfigError:
            drawn = ""
        return f"<div>{drawn}<p>{escape(self.report)}</p></div>"


def history_of(state: State, seen: Iterable[RoundRecord]) -> list[Row]:
    """All rounds of a run: a checkpoint has the newest thousand, ``seen`` those before."""
    kept = {record.version for record in state.history}
    first = min(kept, default=0)
    older = [record for record in seen if record.version < first]
    return aligned((*older, *state.history))


def result_of(
    state: State, view: FederationView, seen: Iterable[RoundRecord], seconds: float, reason: str
) -> dict[str, Any]:
    """What of a `Result` the coordinator says."""
    return {
        "version": state.version,
        "history": history_of(state, seen),
        "seconds": seconds,
        "reason": reason or "all rounds are done",
        "updates": view.updates,
        "bytes_up": view.bytes_up,
        "bytes_down": view.bytes_down,
        "state": state,
    }


def _is_keras(client: FederatedClient) -> bool:
    model = getattr(client.trainable, "model", client.model)
    return any(kind.__module__.partition(".")[0] == "keras" for kind in type(model).__mro__)


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1000
    return f"{count:.3g} GB"
