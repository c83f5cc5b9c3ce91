"""State of a Keras model beside its weights that decides what the weights mean."""

import hashlib
import json
from typing import Any

import numpy as np


def digests(model: Any) -> dict[str, str]:
    """A digest of each piece of state that is not exchanged and has to be equal at every site.

    That is a vocabulary (an embedding's row 7 is one word everywhere or the mean of two words), the
    edges of bins, and a quantised kernel. By name, as ``text_vectorization's vocabulary``.
    """
    found: dict[str, str] = {}
    for layer in model._flatten_layers():  # nothing public goes into nested models
        name = type(layer).__name__
        if hasattr(layer, "get_vocabulary"):
            words = [str(word) for word in layer.get_vocabulary()]
            _put(found, f"{name} vocabulary", json.dumps(words).encode())
        elif getattr(layer, "bin_boundaries", None) is not None:
            edges = [float(edge) for edge in layer.bin_boundaries]
            _put(found, f"{name} bin boundaries", json.dumps(edges).encode())
    for array in model.get_weights():
        if array.dtype.kind in "iu" and array.ndim > 1:
            _put(found, "quantised kernel", np.ascontiguousarray(array).tobytes())
    return found


def _put(found: dict[str, str], name: str, data: bytes) -> None:
    """Under a unique name: layers of one kind are told apart by their order."""
    number = 1
    while (key := name if number == 1 else f"{name} {number}") in found:
        number += 1
    found[key] = hashlib.sha256(data).hexdigest()[:32]


def normalisers(model: Any) -> list[Any]:
    """Layers that compute with copies of their weights, made by ``finalize_state``."""
    return [
        layer
        for layer in model._flatten_layers()
        if hasattr(layer, "finalize_state") and hasattr(layer, "adapt_mean") and layer.built
    ]


def take_over(model: Any, layers: list[Any], before: list[list[Any]]) -> None:
    """Let ``layers`` compute with the weights that they were given, if these are others.

    The compiled steps hold the old copies, so they are compiled again; that is once in a run, for
    nothing changes these weights afterwards.
    """
    changed = [
        layer
        for layer, old in zip(layers, before, strict=True)
        if any(not np.array_equal(a, b) for a, b in zip(layer.get_weights(), old, strict=True))
    ]
    for layer in changed:
        layer.finalize_state()
    if changed:
        model.train_function = model.test_function = model.predict_function = None
