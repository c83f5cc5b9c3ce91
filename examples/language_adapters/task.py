"""What a site brings: the base, its adapters, and its own text."""

from pathlib import Path

import keras

from client_worker import KerasTask
from warren_examples.language_adapters import SITES
from warren_examples.language_adapters.model import BATCH, adapted
from warren_examples.language_adapters.text import site

EVALUATED = 100  # pieces in each round: 500 would take longer than its five steps


def reader(base: str, shard: int = 0, learning_rate: float = 1e-2) -> KerasTask:
    """The task of the site in place ``shard``; ``base`` is the file of the pre-trained weights.

    The coordinator's ``--exchange trainable`` has only the adapters travel.
    """
    train, held_out = site(list(SITES)[shard % len(SITES)])
    return KerasTask(
        adapted(Path(base)),
        train,
        learning_rate,
        validation=(held_out[0][:EVALUATED], held_out[1][:EVALUATED]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        optimizer=keras.optimizers.Adam(learning_rate),
        batch_size=BATCH,
    )
