"""Keras and TensorFlow, imported once and quietly. Whatever else needs them takes them from here.

Raises ConfigError at import if Keras runs on another backend: data pipelines are ``tf.data`` and
gradients are changed in TensorFlow, so FedProx, SCAFFOLD and clipping would not act on another.
"""

import os
import sys
from contextlib import suppress
from typing import Final

from client_worker import gpu
from client_worker.models.tensorflow_log import without_greetings
from warren_shared.errors import ConfigError

__all__ = ["keras", "tf"]

BACKEND: Final = "tensorflow"


def check_backend(chosen: str) -> None:
    """Raise ConfigError if ``chosen`` is another backend than TensorFlow."""
    if chosen != BACKEND:
        raise ConfigError(f"Keras models federate on TensorFlow, and KERAS_BACKEND is {chosen!r}:"
                          " set KERAS_BACKEND=tensorflow, or bring an object with get_weights,"
                          " set_weights and fit (TrainableModel)")  # fmt: skip


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "keras" not in sys.modules:  # or it has chosen already, perhaps by its own file
    check_backend(os.environ.setdefault("KERAS_BACKEND", BACKEND))

with without_greetings():
    import keras

    check_backend(keras.backend.backend())
    import tensorflow as tf

    _cards = tf.config.list_physical_devices("GPU")  # looks now, not in the first round
    gpu.check_seen(len(_cards), "TensorFlow")
    for _gpu in _cards:
        # TensorFlow takes the whole card otherwise, and the second client on it finds no memory.
        with suppress(RuntimeError, ValueError):  # somebody has used the card already
            tf.config.experimental.set_memory_growth(_gpu, True)
