"""What a model says of its tensors: names, roles, and which of them can travel.

A model that says nothing has tensors called ``0``, ``1``, …, all trainable. It may have the methods
``weight_names()`` and ``weight_roles()``, one word for each array of ``get_weights()``; of a Keras
model without a wrapper its variables say the same.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import (
    CONTROL,
    MAX_NAME,
    STATISTIC,
    TRAINABLE,
    Array,
    Layout,
    Role,
    Weights,
)

LOCAL: Final = "local"  # what a model calls a tensor that stays at its site
# And one that neither training nor anything else changes: it travels like a statistic, or, with
# `--exchange trainable`, not at all.
FROZEN: Final = "frozen"
KNOWN: Final = (TRAINABLE, STATISTIC, LOCAL, FROZEN)
WIDENED: Final = ("float16", "bfloat16")  # travel as float32, which holds every value of theirs
UNCOUNTABLE: Final = "biu"  # kinds of dtype that cannot be averaged: they stay at the site


def weight_names(model: Any, count: int) -> list[str]:
    """What ``model`` calls its ``count`` tensors, if that can travel; else their numbers."""
    names = [str(name) for name in _said(model, "weight_names", "path")]
    unique = len(set(names)) == len(names) == count
    if unique and all(0 < len(n) <= MAX_NAME and not n.startswith(CONTROL) for n in names):
        return names
    return [str(number) for number in range(count)]


def weight_roles(model: Any, arrays: Sequence[Array]) -> list[str]:
    """Role of each of the model's ``arrays``: one of KNOWN.

    Integers and booleans (a counter, a seed, a quantised kernel) are ``local`` whatever is said: a
    mean of them is no value of theirs. Raises ConfigError for a word that is no role.
    """
    said = list(_said(model, "weight_roles", "trainable"))
    roles = [
        (TRAINABLE if one else STATISTIC) if isinstance(one, bool) else str(one) for one in said
    ]
    if roles and len(roles) != len(arrays):
        raise ConfigError(f"weight_roles() names {len(roles)} roles of {len(arrays)} arrays")
    for role in roles:
        if role not in KNOWN:
            raise ConfigError(f"weight_roles() says {role!r}; the roles are {', '.join(KNOWN)}")
    roles = roles or [TRAINABLE] * len(arrays)
    return [
        LOCAL if array.dtype.kind in UNCOUNTABLE else role
        for array, role in zip(arrays, roles, strict=True)
    ]


def widened(array: Array) -> Array:
    """``array``, or a 16-bit one as float32."""
    return array.astype(np.float32) if array.dtype.name in WIDENED else array


def federated(model: Any, arrays: Sequence[Array], local: Sequence[int] = ()) -> Layout:
    """Layout of those of a model's ``arrays`` that travel: all but ``local`` and those that cannot.

    Raises ConfigError if none does, or one has a dtype that can neither travel nor stay.
    """
    names, roles = weight_names(model, len(arrays)), weight_roles(model, arrays)
    places = travelling(roles, local)
    if arrays and not places:
        raise ConfigError(
            "none of the model's tensors can be averaged: there is nothing to federate"
        )
    chosen: list[Role] = [TRAINABLE if roles[p] == TRAINABLE else STATISTIC for p in places]
    return Layout.of([widened(arrays[p]) for p in places], [names[p] for p in places], chosen)


def travelling(roles: Sequence[str], local: Sequence[int] = ()) -> list[int]:
    """Places of the tensors that travel."""
    return [p for p, role in enumerate(roles) if role != LOCAL and p not in local]


def packed(model: Any, arrays: Sequence[Array]) -> Weights:
    """The tensors of ``model`` that travel, its ``arrays`` being all it has."""
    found = [np.asarray(array) for array in arrays]
    layout = federated(model, found)
    places = travelling(weight_roles(model, found))
    return Weights.of([widened(found[place]) for place in places], layout)


def filled(model: Any, weights: Weights) -> Sequence[Array]:
    """``weights``, and in their places the tensors of ``model`` that do not travel."""
    own = [np.asarray(array) for array in model.get_weights()]
    if len(own) == len(weights):
        return weights
    given = iter(weights)
    roles = weight_roles(model, own)
    return [array if role == LOCAL else next(given) for array, role in zip(own, roles, strict=True)]


def _said(model: Any, method: str, attribute: str) -> Sequence[Any]:
    """What ``method()`` of a model returns, or ``attribute`` of its Keras variables."""
    known = getattr(model, method, None)
    if known is not None:
        return list(known())
    variables = getattr(model, "weights", None)
    if not isinstance(variables, list) or not hasattr(model, "trainable_variables"):
        return []
    if attribute == "path":
        return [variable.path for variable in variables]
    trained = {id(variable) for variable in model.trainable_variables}
    return [id(variable) in trained for variable in variables]
