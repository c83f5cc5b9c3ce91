"""A model from a file, judged on a task's validation data."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from client_worker.export import load
from client_worker.tasks.task import TaskSource
from warren_shared.config.settings_model import Settings
from warren_shared.errors import ConfigError


class EvaluateSettings(Settings):
    """What ``client-worker evaluate`` can be told."""

    SECTION: ClassVar[str] = "client"

    task: str = Field(description="whose validation data, as package.module:attribute")
    model: Path = Field(description="weights as .npz, .safetensors, .keras or .pt")


def evaluate(given: EvaluateSettings, arguments: list[str]) -> dict[str, float]:
    """Figures of the model on the task's validation data.

    Raises ConfigError if the task has none, or the file does not hold its model.
    """
    source = TaskSource(given.task, arguments)
    task = source.make(source.arguments({}))
    client = task.client()
    load(client, given.model, f"--model {given.model}")
    figures = client.evaluate()
    if not figures:
        raise ConfigError(f"--task {given.task} has no validation data, or its model no evaluate")
    return figures
