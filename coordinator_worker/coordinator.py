"""The coordinator of federated learning: aggregates updates, sends the new global model."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from coordinator_worker.fold import WeightedSum
from shared.errors import ConfigError
from shared.layout import Array, Weights
from shared.update import Update


class Model(Protocol):
    """Whatever takes a global model: a Keras model, or the fanout to every client's mailbox."""

    def get_weights(self) -> Sequence[Array]:
        """Return the weights, one array per tensor."""
        ...

    def set_weights(self, weights: Sequence[Array], /) -> object:
        """Take over new weights of the same layout."""
        ...


class FederatedCoordinator:
    """Federated averaging over the models of its clients (McMahan et al. 2017, algorithm 1).

    ``models``: who receives the global model. In one process these are the clients' models; in
    ``coordinator-worker`` it is one object, the fanout exchange that reaches every mailbox. The
    first one's weights are the initial global model.

        coordinator = FederatedCoordinator([client.model for client in clients])
        for _ in range(rounds):
            updates = [client.train(coordinator.weights) for client in clients]
            coordinator.send(coordinator.aggregate(updates))
    """

    def __init__(self, models: Sequence[Model]) -> None:
        if not models:
            raise ConfigError("a coordinator needs at least one model to send to")
        self.models = list(models)
        self._weights = Weights.of(self.models[0].get_weights())

    @property
    def weights(self) -> Weights:
        """The current global model: one array per tensor, not to be written to."""
        return self._weights

    def aggregate(self, updates: Iterable[Update | WeightedSum]) -> Weights:
        """Return the global model moved by the weighted mean of ``updates``.

        w' = w + (sum_k n_k * delta_k) / (sum_k n_k), n_k the number of examples of update k. A
        WeightedSum counts as the updates folded into it; its memory may become the result. The
        current model stays as it is until ``send``. Raises ConfigError if there are no updates or
        one does not fit the model, Rejected if one is not finite.
        """
        total: WeightedSum | None = None
        for update in updates:
            if isinstance(update, WeightedSum):
                self._check(update)
            if total is None and isinstance(update, WeightedSum):
                total = update
                continue
            if total is None:
                total = WeightedSum(self._weights.layout)
            if isinstance(update, WeightedSum):
                total.merge(update)
            else:
                total.add(update)
        if total is None or not total.weight:
            raise ConfigError("there are no updates to aggregate")
        return total.apply_to(self._weights)

    def _check(self, part: WeightedSum) -> None:
        if difference := self._weights.layout.difference(part.layout):
            raise ConfigError(f"this sum does not fit the model: {difference}")

    def send(self, model_updates: Sequence[Array]) -> None:
        """Make ``model_updates`` the global model and hand it to every model."""
        self._weights = Weights.of(model_updates, self._weights.layout)
        for model in self.models:
            model.set_weights(self._weights)
