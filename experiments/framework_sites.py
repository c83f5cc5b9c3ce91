"""One framework's part of `experiments.frameworks`, which runs in an environment of its own.

``python -m experiments.framework_sites keras|torch FOLDER short|whole`` prints the accuracy after
each round, a list for each seed, as JSON.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client_worker.partition import dirichlet
from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from experiments.data import Images, fashion_mnist

# Of the moving statistics: Keras's own would take hundreds of batches to forget where they began.
MOMENTUM, EPSILON = 0.9, 1e-3
RATE, BATCH = 0.05, 32


@dataclass(frozen=True)
class Scale:
    """How much is trained."""

    images: int = 6_000
    test: int = 10_000
    clients: int = 10
    rounds: int = 20
    seeds: tuple[int, ...] = (1, 2, 3)
    alpha: float = 1.0


SHORT: Final = Scale(200, 200, 2, 2, (1,))


def curves(framework: str, data: Path, scale: Scale) -> list[list[float]]:
    """Accuracy on the test images after each round, for each seed."""
    found = []
    for seed in scale.seeds:
        images = fashion_mnist(data, scale.images, scale.test, seed)
        parts = dirichlet(images.y, scale.clients, scale.alpha, seed)
        make = keras_site if framework == "keras" else torch_site
        clients = [make(images, part, seed).client() for part in parts]
        coordinator = FederatedCoordinator([clients[0].model])
        judge = make(images, parts[0], seed, judges=True).client()
        curve = []
        for _ in range(scale.rounds):
            updates = [client.train(coordinator.weights) for client in clients]
            coordinator.send(coordinator.aggregate(updates))
            judge.update(coordinator.weights)
            curve.append(judge.evaluate()["accuracy"])
        found.append(curve)
    return found


def keras_site(images: Images, part: Any, seed: int, *, judges: bool = False) -> Any:
    """A client's task with Keras."""
    from client_worker import KerasTask
    from client_worker.models.keras_backend import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential([keras.Input((28, 28, 1))])
    for filters in (16, 32):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON))
        model.add(layers.ReLU())
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(64, "relu"))
    model.add(layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, test = (each.reshape(-1, 28, 28, 1) for each in (images.x[part], images.test_x))
    held_out = (test, images.test_y) if judges else None
    return KerasTask(
        model, (x, images.y[part]), RATE, loss=loss, batch_size=BATCH, validation=held_out
    )


def torch_site(images: Images, part: Any, seed: int, *, judges: bool = False) -> Any:
    """The same with PyTorch; weights begin as Keras's do."""
    import torch
    from torch import nn

    from client_worker import TorchTask

    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, filters in ((1, 16), (16, 32)):
        layers += [
            nn.Conv2d(before, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters, eps=EPSILON, momentum=1 - MOMENTUM),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    layers += [nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)]
    module = nn.Sequential(*layers)
    for layer in module:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    x, test = (each.reshape(-1, 1, 28, 28) for each in (images.x[part], images.test_x))
    held_out = (test, images.test_y) if judges else None
    loss = nn.CrossEntropyLoss()
    return TorchTask(
        module, (x, images.y[part]), RATE, loss=loss, batch_size=BATCH, validation=held_out
    )


if __name__ == "__main__":
    _, framework, folder, much = sys.argv
    found = curves(framework, Path(folder), SHORT if much == "short" else Scale())
    sys.stdout.write(json.dumps(found) + "\n")
