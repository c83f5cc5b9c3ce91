"""``coordinator-worker import``: begin a run with weights from a file."""

import argparse
from pathlib import Path

from pydantic import Field

from coordinator_worker.versions.export import weights_of
from coordinator_worker.versions.registry import ModelSettings
from coordinator_worker.versions.rollback import import_model
from warren_shared.amqp.broker_url import BrokerUrl
from warren_shared.config import settings

ABOUT = (
    "Begin a run with weights from a file: they become version 0 in a checkpoint folder that is"
    " still empty, and a coordinator that starts there goes on from them. Takes the coordinator's"
    " bundle, for the federation's name; needs no broker. A .keras needs --task, whose model it is,"
    " and client-worker with TensorFlow beside us; flags that are not listed below belong to that"
    " task."
)


class ImportSettings(ModelSettings):
    """What ``coordinator-worker import`` can be told."""

    broker_url: str = Field(
        description="the federation's broker, amqp://…/federation, as the bundle has it: only the"
        " federation's name is taken from it"
    )

    @property
    def federation(self) -> str:
        """The federation's name."""
        return BrokerUrl.parse(self.broker_url).vhost


def run(argv: list[str]) -> None:
    """Write the checkpoint, and say what is in it."""
    own = argparse.ArgumentParser(
        prog="coordinator-worker import", add_help=False, allow_abbrev=False
    )
    own.add_argument("file", metavar="FILE", type=Path, help="a .npz, .safetensors or .keras")
    own.add_argument(
        "--task", metavar="TASK", help="whose model a .keras is, as package.module:attribute"
    )
    given, rest = settings.load(
        ImportSettings, description=ABOUT, argv=argv, keep_unknown=True, own=own
    )
    asked = settings.own_words(own, ImportSettings, argv)
    with weights_of(asked.file, asked.task, rest) as path:
        state = import_model(given.checkpoint_dir, given.federation, path, asked.file.name)
    layout = state.weights.layout
    numbers = sum(array.size for array in state.weights)
    print(  # noqa: T201
        f"{asked.file} is version 0 of {state.federation} in {given.checkpoint_dir}:"
        f" {len(layout.tensors)} tensors, {numbers:,} numbers; start the coordinator, and it goes"
        " on from there"
    )
