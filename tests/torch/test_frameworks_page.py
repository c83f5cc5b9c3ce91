"""docs/frameworks.md, run from its first block to its last, and each of its tasks trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client_worker import ConfigError, TorchTask
from coordinator_worker import FederatedCoordinator
from tests.support import documents
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import Weights

PAGE = documents.blocks("docs/frameworks.md")


class Shared:
    """What leaves a client."""

    def __init__(self, client: Any) -> None:
        self.get_weights = client.weights

    def set_weights(self, weights: Any) -> None:
        """Nothing: each round begins with the coordinator's."""


def test_its_commands_do_what_it_says(tmp_path: Path) -> None:
    said = documents.run(PAGE, tmp_path, deadline_s=120)
    assert "version 8 is final" in said
    assert "the exported model has 291 parameters" in said


@pytest.mark.parametrize("name", ["site", "adam", "frozen", "weighted"])
def test_each_of_its_torch_tasks_learns(name: str) -> None:
    made = [tasks_of("my_torch.py")[name](shard=shard) for shard in (0, 1)]
    clients = [task.client() for task in made]
    coordinator = FederatedCoordinator([Shared(clients[0])])
    losses = []
    for _ in range(6):
        updates = [client.train(coordinator.weights) for client in clients]
        losses.append(sum(update.metrics["loss"] for update in updates))
        coordinator.send(coordinator.aggregate(updates))
    assert losses[-1] < 0.8 * losses[0]


def tasks_of(name: str) -> dict[str, Any]:
    """What the page's file ``name`` defines."""
    (block,) = [block for block in PAGE if block.name == name]
    found: dict[str, Any] = {"__name__": name.removesuffix(".py")}
    exec(compile(block.text, name, "exec"), found)  # noqa: S102
    return found


@pytest.mark.parametrize(
    "local",
    [LocalTraining(), LocalTraining(scaffold=True), LocalTraining(proximal=0.01, clip_norm=1.0)],
    ids=["plain", "SCAFFOLD", "FedProx and clipping"],
)
def test_a_function_of_jax_learns_as_the_coordinator_asks(local: LocalTraining) -> None:
    site = tasks_of("my_jax.py")["site"]
    clients = [site(shard=shard).client() for shard in (0, 1)]
    start = clients[0].initial(local)

    class Controlled(Shared):
        def __init__(self) -> None:
            self.get_weights = lambda: start

    coordinator = FederatedCoordinator([Controlled()])
    coordinator.population = 2
    found = []
    for _ in range(15):
        layout = clients[0].layout_for(local)
        weights = Weights.of(coordinator.weights, layout)
        updates = [client.train(weights, local) for client in clients]
        found.append(updates[0].metrics["eval_accuracy"])
        coordinator.send(coordinator.aggregate(updates))
    assert found[-1] > 0.85 > found[0], found


def test_the_gradients_of_jax_are_those_of_finite_differences() -> None:
    made = tasks_of("my_jax.py")["site"](shard=0)
    weights = [array.astype(np.float64) for array in made.model.get_weights()]
    x, y = (array[:20] for array in made.data)
    value, gradients = made.model.gradient([w.astype(np.float32) for w in weights], x, y)
    loss = tasks_of("my_jax.py")["loss"]
    assert value == pytest.approx(float(loss(weights, x, y)), rel=1e-5)
    weights[0][0, 3] += 0.01
    high = float(loss(weights, x, y))
    weights[0][0, 3] -= 0.02
    low = float(loss(weights, x, y))
    assert gradients[0][0, 3] == pytest.approx((high - low) / 0.02, rel=0.02, abs=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers' own
def test_low_rank_adapters_of_a_bert_travel_without_it_and_learn() -> None:
    site = tasks_of("my_bert.py")["site"]
    local = LocalTraining(exchange="trainable")
    clients = [site(shard=shard).client() for shard in (0, 1)]
    layout = clients[0].layout_for(local)
    assert all("lora_B" in t.name or "modules_to_save" in t.name for t in layout.tensors)
    assert layout.size_bytes < clients[0].layout.size_bytes / 10
    fixed = [client.fixed_state_for(local) for client in clients]
    assert fixed[0] == fixed[1]
    start = clients[0].initial(local)

    class Adapters(Shared):
        def __init__(self) -> None:
            self.get_weights = lambda: start

    coordinator = FederatedCoordinator([Adapters()])
    found = []
    for _ in range(10):
        weights = Weights.of(coordinator.weights, layout)
        updates = [client.train(weights, local) for client in clients]
        found.append(updates[0].metrics["eval_accuracy"])
        coordinator.send(coordinator.aggregate(updates))
    assert found[-1] > 0.85 > found[0], found


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_of_which_a_and_b_train_are_refused() -> None:
    module = tasks_of("my_bert.py")["network"]()
    for name, parameter in module.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(True)
    data = torch.utils.data.TensorDataset(torch.zeros(4, 4, dtype=torch.long))
    client = TorchTask(module, data, 0.1, step=lambda module, batch: module(*batch)).client()
    with pytest.raises(ConfigError, match="the mean of products is not the product of means"):
        client.layout_for(LocalTraining(exchange="trainable"))
