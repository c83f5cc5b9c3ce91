"""Weights that no site trains: with ``--exchange trainable`` a digest names them, and they stay.

The digest is one of the states that have to be equal at every site (`FixedState` in
`warren_shared.protocol.messages`): an update to what trains means something else on another base.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from blake3 import blake3

from warren_shared.tensors.layout import Array, bytes_of, canonical

FROZEN_WEIGHTS: Final = "frozen weights"  # their name among a federation's fixed states
FACT: Final = "frozen"  # and in the metadata of a file that holds only what trains
HEX: Final = 32  # digits of the digest: 128 bits


def digests(names: Sequence[str], arrays: Sequence[Array], places: Sequence[int]) -> dict[str, str]:
    """A digest of each of the model's ``arrays`` at ``places``, by what it is called everywhere.

    ``names`` and ``arrays`` are those of the whole model: what Keras calls a layer depends on how
    many a process has made before, so names are compared by their rank in the model.
    """
    called = canonical(names)
    found = {}
    for place in places:
        array = np.ascontiguousarray(arrays[place])
        key = f"{place}: {called[place]} {array.dtype.name}{list(array.shape)}"
        found[key] = blake3(bytes_of(array.reshape(-1).view(np.uint8))).hexdigest()
    return found


def digest(each: Mapping[str, str]) -> str:
    """One digest of all, in hexadecimal; also of none, which is a digest of its own."""
    return blake3(json.dumps(list(each.items())).encode()).hexdigest()[:HEX]


def fact(fixed_state: Mapping[str, str]) -> dict[str, str]:
    """What the metadata of a model's file say of ``fixed_state``: nothing if all was exchanged."""
    return {FACT: fixed_state[FROZEN_WEIGHTS]} if FROZEN_WEIGHTS in fixed_state else {}


def is_whole(facts: Mapping[str, str]) -> bool:
    """Whether a file that says ``facts`` holds all of a model that is exchanged with ``all``."""
    return facts.get(FACT) in (None, digest({}))


def fixed_state(facts: Mapping[str, str]) -> dict[str, str]:
    """The other way: the fixed state of a run that begins with a file that says ``facts``."""
    return {FROZEN_WEIGHTS: facts[FACT]} if FACT in facts else {}
