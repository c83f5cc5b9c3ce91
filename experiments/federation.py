"""A federation in this process: clients, their coordinator, and what the model is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator_worker.coordinator import FederatedCoordinator
from experiments.arithmetic import FederatedClient, Mlp
from experiments.data import Images
from shared.layout import CONTROL, Array, Layout, Tensor, Weights


class WithControls:
    """A model as the coordinator sees it with SCAFFOLD: a control behind each weight, from zero."""

    def __init__(self, model: Mlp) -> None:
        self._model = model

    def get_weights(self) -> Weights:
        """[*weights, *controls]."""
        weights = Weights.of(self._model.get_weights())
        named = [
            Tensor(f"{CONTROL}{number}", tensor.shape, tensor.dtype)
            for number, tensor in enumerate(weights.layout.tensors)
        ]
        longer = Weights.empty(Layout((*weights.layout.tensors, *named)))
        for target, array in zip(longer, weights, strict=False):
            np.copyto(target, array)
        return longer

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Take the weights over."""
        self._model.set_weights(weights[: len(weights) // 2])


@dataclass(frozen=True)
class Federation:
    """Clients who share one ``model``, which is only a place to compute in."""

    model: Mlp
    clients: Sequence[FederatedClient]
    coordinator: FederatedCoordinator
    images: Images

    @classmethod
    def of(
        cls, model: Mlp, images: Images, parts: Sequence[Array], rate: float, *,
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
        self.model.set_weights(shown[: len(self.model.shapes)])
        return self.model.evaluate((self.images.test_x, self.images.test_y))["accuracy"]
