"""docs/frameworks.md, run from its first block to its last, and each of its tasks trained."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from coordinator_worker import FederatedCoordinator
from tests.support import documents

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
def test_each_of_its_tasks_learns(name: str, tmp_path: Path) -> None:
    (block,) = [block for block in PAGE if block.name == "my_torch.py"]
    spec = importlib.util.spec_from_loader("my_torch", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(block.text, "my_torch.py", "exec"), vars(module))  # noqa: S102
    made = [vars(module)[name](shard=shard) for shard in (0, 1)]
    clients = [task.client() for task in made]
    coordinator = FederatedCoordinator([Shared(clients[0])])
    losses = []
    for _ in range(6):
        updates = [client.train(coordinator.weights) for client in clients]
        losses.append(sum(update.metrics["loss"] for update in updates))
        coordinator.send(coordinator.aggregate(updates))
    assert losses[-1] < 0.8 * losses[0]
