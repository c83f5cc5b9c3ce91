"""Whether a ``.keras`` file is of a model's architecture, asked before its weights are taken.

``load_weights`` compares what each layer has to fill and nothing else: a file with layers more, or
with another activation, is passed over without a word, and the model would predict something else.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from client_worker.models import keras_state

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.weights.h5"
# What a layer is called, how it begins and how it was made does not change what it computes.
UNIMPORTANT: Final = frozenset(
    ("name", "trainable", "dtype", "seed", "batch_shape", "batch_input_shape", "registered_name")
)
ENDINGS: Final = ("_initializer", "_regularizer", "_constraint")
NOT_THE_MODEL: Final = ("optimizer", "metrics", "_metrics", "compile_metrics")


def difference(path: Path, model: Any) -> str | None:
    """What tells the model in ``path`` apart from ``model``, in words; None if nothing does.

    Raises what zipfile, json and h5py raise of a file that is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        told = json.loads(archive.read(CONFIG))
        with archive.open(WEIGHTS) as file:
            shapes = _shapes(file)
    theirs, ours = list(_layers(told)), list(_layers(_config_of(model)))
    for number, (found, wanted) in enumerate(zip(theirs, ours, strict=False)):
        if found != wanted:
            return f"its layer {number} is {_words(found, wanted)}"
    if len(theirs) != len(ours):
        return f"it has {len(theirs)} layers, the task's model {len(ours)}"
    merged = {id(one) for layer in model._flatten_layers() for one in keras_state.lora(layer)}
    own = Counter(
        tuple(variable.shape)
        for variable in model.variables
        if "seed" not in variable.path and id(variable) not in merged
    )
    if shapes != own:
        extra = next(iter((shapes - own) or (own - shapes)))
        return f"they differ in tensors of shape {list(extra)}"
    return None


def _config_of(model: Any) -> dict[str, Any]:
    try:
        config = model.get_config()
    except NotImplementedError:
        config = {}
    return {"class_name": type(model).__name__, "config": config}


def _layers(told: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class and settings of each layer, in order; a model in a model is gone through in place."""
    if not isinstance(told, dict) or "class_name" not in told:
        return
    config = told.get("config") or {}
    inner = config.get("layers") if isinstance(config, dict) else None
    if isinstance(inner, list):
        places = {layer.get("name", ""): place for place, layer in enumerate(inner)}
        for layer in inner:
            for kind, kept in _layers(layer):
                yield kind, {**kept, "inputs": list(_inputs(layer.get("inbound_nodes"), places))}
        ends = [config[end] for end in ("input_layers", "output_layers") if end in config]
        if ends:
            found = [[places[word] for word in _words_in(end, places)] for end in ends]
            yield "Model", {"ends": found}
        return
    kept = {
        name: _plain(value)
        for name, value in (config.items() if isinstance(config, dict) else ())
        if name not in UNIMPORTANT and not name.endswith(ENDINGS)
    }
    yield str(told["class_name"]), kept


def _inputs(told: Any, places: dict[str, int]) -> Iterator[int]:
    """Places of the layers whose outputs a layer takes, in order."""
    if isinstance(told, dict):
        history = told.get("keras_history")
        if isinstance(history, (list, tuple)) and history:
            yield places.get(history[0], -1)
        for value in told.values():
            yield from _inputs(value, places)
    elif isinstance(told, (list, tuple)):
        for value in told:
            yield from _inputs(value, places)


def _words_in(told: Any, places: dict[str, int]) -> Iterator[str]:
    if isinstance(told, str) and told in places:
        yield told
    elif isinstance(told, dict):
        for value in told.values():
            yield from _words_in(value, places)
    elif isinstance(told, (list, tuple)):
        for value in told:
            yield from _words_in(value, places)


def _plain(value: Any) -> Any:
    """A setting without the names in it, and as JSON would give it back."""
    if isinstance(value, dict):
        kept = {k: _plain(v) for k, v in value.items() if k not in UNIMPORTANT}
        return {k: v for k, v in kept.items() if k not in ("module", "build_config")}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _words(found: tuple[str, dict[str, Any]], wanted: tuple[str, dict[str, Any]]) -> str:
    if found[0] != wanted[0]:
        return f"{found[0]}, the task's is {wanted[0]}"
    each = sorted({*found[1], *wanted[1]})
    name = next(n for n in each if found[1].get(n) != wanted[1].get(n))
    values = (json.dumps(one[1].get(name))[:80] for one in (found, wanted))
    return f"{found[0]} with {name}={next(values)}, the task's has {next(values)}"


def _shapes(file: Any) -> Counter[tuple[int, ...]]:
    """Shapes of the model's variables in an HDF5 file; seeds are no part of it."""
    import h5py

    found: Counter[tuple[int, ...]] = Counter()

    def note(name: str, one: Any) -> None:
        if not isinstance(one, h5py.Dataset) or name.split("/", maxsplit=1)[0] in NOT_THE_MODEL:
            return
        if "seed_generator" not in name:
            found[tuple(one.shape)] += 1

    with h5py.File(file) as archive:
        archive.visititems(note)
    return found
