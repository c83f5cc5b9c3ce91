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


def frozen(model: Any) -> set[int]:
    """Ids of the variables that training leaves alone.

    These are what would be trained and is not, the scales of a quantised kernel, and the statistics
    of a layer that is frozen: a BatchNormalization with ``trainable=False`` does not move them.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    found: set[int] = set()
    for layer in model._flatten_layers():
        own = list(layer._trainable_variables)
        if not layer.trainable or getattr(layer, "quantization_mode", None):
            own += layer._non_trainable_variables
        found.update(id(variable) for variable in own if id(variable) not in trained)
    return found


def adapters(model: Any) -> list[tuple[str, int, int]]:
    """Of each layer with LoRA its path and the places of its A and B in ``model.weights``."""
    places = {id(variable): place for place, variable in enumerate(model.weights)}
    found = []
    for layer in model._flatten_layers():
        if pair := lora(layer):
            a, b = pair
            found.append((a.path.rpartition("/")[0] or layer.name, places[id(a)], places[id(b)]))
    return found


def lora(layer: Any) -> tuple[Any, ...]:
    """A and B of a layer with LoRA, which adds their product to its weights; () of any other.

    Keras writes the sum into a ``.keras``, and neither A nor B: read back both are zero.
    """
    if not getattr(layer, "lora_enabled", False):
        return ()
    if hasattr(layer, "lora_embeddings_a"):
        return layer.lora_embeddings_a, layer.lora_embeddings_b
    return layer.lora_kernel_a, layer.lora_kernel_b


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
