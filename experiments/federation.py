"""A federation in this process: clients, their coordinator, and what the model is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from client_worker.client import FederatedClient
from client_worker.models.numpy_model import NumpyModel
from client_worker.training import scaffold
from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from experiments.data import Images
from warren_shared.tensors.evaluation import Evaluation
from warren_shared.tensors.layout import Array, Weights


class WithControls:
    """A model as the coordinator sees it with SCAFFOLD: a control behind each weight, from zero."""

    def __init__(self, model: NumpyModel) -> None:
        self._model = model

    def get_weights(self) -> Weights:
        """[*weights, *controls]."""
        return scaffold.longer(Weights.of(self._model.get_weights()))

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Take the weights over."""
        self._model.set_weights(weights[: len(weights) // 2])


@dataclass(frozen=True)
class Federation:
    """Clients who share one ``model``, which is only a place to compute in."""

    model: NumpyModel
    clients: Sequence[FederatedClient]
    coordinator: FederatedCoordinator
    images: Images

    @classmethod
    def of(
        cls, model: NumpyModel, images: Images, parts: Sequence[Array], rate: float, *,
        scaffold: bool = False, **options: Any,
    ) -> "Federation":  # fmt: skip
        """A client for each of ``parts`` (indices of its images), who learns at ``rate``.

        ``options`` are FederatedCoordinator's.
        """
        clients = [FederatedClient(model, (images.x[p], images.y[p]), rate) for p in parts]
        coordinator = FederatedCoordinator([WithControls(model) if scaffold else model], **options)
        coordinator.population = len(clients)
        return cls(model, clients, coordinator, images)

    def accuracy(self, weights: Sequence[Array] | None = None) -> float:
        """Of ``weights``, or else of the global model, on the test images."""
        shown = self.coordinator.weights if weights is None else weights
        self.model.set_weights(shown[: len(self.model.weights)])
        found = self.model.evaluate((self.images.test_x, self.images.test_y))
        return (found.metrics() if isinstance(found, Evaluation) else found)["accuracy"]
