"""Low-rank adapters (LoRA, Hu et al. 2022) that can be averaged: Keras's own, with A frozen.

A layer computes with W + (alpha / rank) A B. The mean of the sites' A times the mean of their B is
not the mean of A B; with one A at every site it is (FFA-LoRA, Sun et al. 2024). So A is made of a
seed, of the same bytes everywhere, and nothing but B trains and travels.
"""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any, Final

import numpy as np

from client_worker.models import keras_state
from client_worker.models.keras_backend import keras
from client_worker.training.personalization import named
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Array

MANTISSA: Final = 53  # bits of a float64 in [0, 1)


def enable_lora(
    model: Any,
    rank: int,
    *,
    seed: int,
    layers: Sequence[str] | None = None,
    train: Sequence[str] = (),
    alpha: float | None = None,
) -> Any:
    """Freeze a Keras model but for low-rank adapters' B in ``layers``; return the model.

    Call it with the pre-trained weights in the model and before ``compile``. The same ``seed`` at
    every site makes the same A.

    Args:
        model: A Keras model that has been built.
        rank: Columns of A and rows of B: at most the smaller side of a layer's kernel.
        seed: From 0; A is uniform within sqrt(6 / inputs), as Keras initialises it.
        layers: Names of layers, with or without those that they are in (``query``,
            ``block_1/attention/query``); without it all Dense and EinsumDense.
        train: Names of layers that train whole beside the adapters, such as a new head.
        alpha: Factor of A B, divided by ``rank``; ``rank`` itself unless given.

    Raises:
        ConfigError: A layer is not there or cannot have an adapter, or the model was compiled and
            trained before.
    """
    if not getattr(model, "built", False):
        raise ConfigError("enable_lora: the model has no weights yet: call build() on it")
    everything = [layer for layer in model._flatten_layers() if layer is not model]
    paths = _paths(everything, model)
    chosen = _chosen(everything, paths, layers)
    whole = _named(everything, paths, train, "train") if train else []
    for layer in chosen:
        _check(layer, paths[id(layer)], rank)
    if getattr(getattr(model, "optimizer", None), "built", False):
        raise ConfigError("enable_lora: the optimizer knows the weights that trained before: call"
                          " enable_lora before compile(), or compile() again after it")  # fmt: skip
    _freeze([model, *everything], chosen, whole)
    for layer in chosen:
        try:
            layer.enable_lora(rank, lora_alpha=alpha)
        except (ValueError, NotImplementedError) as error:
            words = " ".join(str(error).split())[:200]
            raise ConfigError(f"enable_lora: {paths[id(layer)]}: {words}") from None
        a, _ = keras_state.lora(layer)
        a.assign(_drawn(tuple(a.shape), seed, everything.index(layer), _inputs(layer, a.shape)))
        a.trainable = False
    _check_trained(model, chosen, whole)
    model.train_function = model.test_function = model.predict_function = None
    return model


def _chosen(
    everything: Sequence[Any], paths: dict[int, str], layers: Sequence[str] | None
) -> list[Any]:
    if layers is not None:
        return _named(everything, paths, layers, "layers")
    kinds = (keras.layers.Dense, keras.layers.EinsumDense)
    found = [layer for layer in everything if isinstance(layer, kinds) and layer.built]
    if not found:
        raise ConfigError("enable_lora: the model has no Dense and no EinsumDense: name layers")
    return found


def _named(
    everything: Sequence[Any], paths: dict[int, str], wanted: Sequence[str], option: str
) -> list[Any]:
    """The layers with variables that ``wanted`` names; each of its words must name one."""
    if isinstance(wanted, str):
        raise ConfigError(f"enable_lora: {option} is a list of names: [{wanted!r}]")
    own = [layer for layer in everything if _own(layer)]
    found: list[Any] = []
    for one in wanted:
        matching = [layer for layer in own if named(one, paths[id(layer)])]
        if not matching:
            there = ", ".join(paths[id(layer)] for layer in own)
            raise ConfigError(f"enable_lora: {option}={one!r}: the model has {there[:400]}")
        found += [layer for layer in matching if layer not in found]
    return found


def _check(layer: Any, path: str, rank: int) -> None:
    """Raise ConfigError if ``layer`` cannot have an adapter of this rank."""
    if not hasattr(layer, "enable_lora"):
        raise ConfigError(f"enable_lora: {path} is a {type(layer).__name__}, which Keras knows no"
                          " LoRA for: name Dense, EinsumDense or Embedding layers")  # fmt: skip
    if layer.lora_enabled:
        raise ConfigError(f"enable_lora: {path} has LoRA already; a .keras that was saved with it"
                          " comes back with A and B of zero: load its weights into a model without"
                          " LoRA")  # fmt: skip
    kernel = layer.embeddings if hasattr(layer, "embeddings") else layer.kernel
    *sides, outputs = kernel.shape
    most = min(prod(sides), outputs)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise ConfigError(f"enable_lora: rank={rank}: of {path} it is from 1 to {most}")


def _freeze(everything: Sequence[Any], chosen: Sequence[Any], whole: Sequence[Any]) -> None:
    """Let nothing train but ``whole``, and no statistic move.

    Not by ``trainable`` of a layer that holds others: that is theirs, too, and their adapters'. All
    are trainable first, or what was frozen before would keep its adapter from training.
    """
    for layer in everything:
        layer.trainable = True
    for layer in everything:
        inside = list(layer._flatten_layers())
        if layer in whole or any(one in whole for one in inside):
            continue
        if not any(one in chosen for one in inside):
            layer.trainable = False
    for layer in everything:
        for variable in layer._trainable_variables:
            variable.trainable = layer in whole


def _check_trained(model: Any, chosen: Sequence[Any], whole: Sequence[Any]) -> None:
    """Raise ConfigError if Keras trains anything else than was asked for."""
    wanted = {id(keras_state.lora(layer)[1]) for layer in chosen}
    wanted |= {id(one) for layer in whole for one in layer._trainable_variables if one.trainable}
    found = {id(variable): variable.path for variable in model.trainable_variables}
    if other := sorted(path for key, path in found.items() if key not in wanted):
        raise ConfigError(f"enable_lora: {', '.join(other[:3])} would train as well")
    if not wanted <= found.keys():
        raise ConfigError("enable_lora: an adapter is in a part of the model that does not train")


def _own(layer: Any) -> list[Any]:
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _paths(everything: Sequence[Any], model: Any) -> dict[int, str]:
    """What each layer is called: as its variables are, without the name of the model."""
    found = {}
    for layer in everything:
        own = _own(layer)
        path = own[0].path.rpartition("/")[0] if own else ""
        found[id(layer)] = path.removeprefix(f"{model.name}/") or layer.name
    return found


def _inputs(layer: Any, shape: Sequence[int]) -> int:
    """How many inputs go into one of A's outputs; of an Embedding one is not zero."""
    return 1 if hasattr(layer, "lora_embeddings_a") else prod(shape[:-1])


def _drawn(shape: tuple[int, ...], seed: int, place: int, inputs: int) -> Array:
    """A: the same bytes on every machine and with every numpy, of which only raw bits are asked."""
    try:
        sequence = np.random.SeedSequence([seed, place])
    except (TypeError, ValueError):
        raise ConfigError(f"enable_lora: seed={seed}: give a whole number from 0") from None
    bits = np.random.PCG64(sequence).random_raw(prod(shape)) >> np.uint64(64 - MANTISSA)
    uniform = bits.astype(np.float64) * 2.0 ** (1 - MANTISSA) - 1.0  # exact
    return (uniform * sqrt(6.0 / inputs)).astype(np.float32).reshape(shape)
