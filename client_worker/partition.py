"""Dealing one data set out among clients: a list of disjoint index arrays, one for each.

All clients of a simulation compute the same list from the same seed and take the part of their own
``shard``: no process has to assign it.
"""

from math import isfinite
from typing import Any

import numpy as np

from warren_shared.errors import ConfigError

Array = np.ndarray[Any, Any]


def iid(n: int, clients: int, seed: int) -> list[Array]:
    """``n`` examples dealt out at random, to each client as many. ConfigError if one gets none."""
    _check_clients(n, clients)
    return np.array_split(np.random.default_rng(seed).permutation(n), clients)


def shards(labels: Any, clients: int, per_client: int, seed: int) -> list[Array]:
    """Sorted by label, cut into shards, ``per_client`` of them to each (McMahan 2017).

    Raises ConfigError if a shard would be empty, and for labels that are missing.
    """
    _, found = _groups(labels)
    if per_client < 1:
        raise ConfigError(f"per_client={per_client}: a client takes one shard at least")
    _check_clients(len(found), clients * per_client, "shards")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(found))
    order = order[np.argsort(found[order], kind="stable")]
    cut = np.array_split(order, clients * per_client)
    dealt = rng.permutation(len(cut)).reshape(clients, per_client)
    return [np.concatenate([cut[shard] for shard in mine]) for mine in dealt]


def by_column(values: Any) -> list[Array]:
    """A client for each value that occurs, such as a hospital or a region, in their order.

    Raises ConfigError if a value is missing (NaN, NaT, None): its row would belong to no client.
    """
    kinds, found = _groups(values)
    return [np.flatnonzero(found == kind) for kind in range(len(kinds))]


def dirichlet(labels: Any, clients: int, alpha: float, seed: int, least: int = 10) -> list[Array]:
    """Each class dealt out in proportions drawn from Dirichlet(``alpha``) (Hsu et al. 2019).

    The smaller ``alpha``, the fewer classes a client has. One that would be left with fewer than
    ``least`` examples is given some of the richest's.

    Raises ConfigError if there are too few, for labels that are missing, and unless ``alpha`` is
    finite and above 0.
    """
    if not (isfinite(alpha) and alpha > 0):
        raise ConfigError(f"alpha={alpha}: give a finite number above 0; iid() deals out evenly")
    kinds, found = _groups(labels)
    _check_clients(len(found), clients)
    if len(found) < least * clients:
        raise ConfigError(f"{len(found)} examples are too few for {least} at {clients} clients")
    rng = np.random.default_rng(seed)
    held: list[list[int]] = [[] for _ in range(clients)]
    for kind in range(len(kinds)):
        members = rng.permutation(np.flatnonzero(found == kind))
        bounds = np.cumsum(_shares(rng, alpha, clients))[:-1] * len(members)
        for mine, part in zip(held, np.split(members, bounds.astype(int)), strict=True):
            mine.extend(part.tolist())
    for mine in held:
        while len(mine) < least:
            mine.append(max(held, key=len).pop())
    return [rng.permutation(mine) for mine in held]


def _shares(rng: np.random.Generator, alpha: float, clients: int) -> Array:
    """One draw from Dirichlet(``alpha``); of a tiny alpha its limit, all to one client."""
    shares = rng.dirichlet([alpha] * clients)
    if not np.isfinite(shares).all() or not np.isclose(shares.sum(), 1):
        shares = np.zeros(clients)
        shares[rng.integers(clients)] = 1.0
    return shares


def _groups(values: Any) -> tuple[Array, Array]:
    """The values that occur, sorted, and for each row which of them it has, shape (n,).

    Raises ConfigError for values that are missing, and for more than one column.
    """
    column = np.asarray(values)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1 or not len(column):
        raise ConfigError(f"values have shape {column.shape}: give one for each row")
    # None, NaN, NaT and pandas.NA are what is missing; only they differ from themselves, or are no
    # value that can be compared.
    missing = np.array([one is None or not _is_itself(one) for one in column], bool)
    if missing.any():
        raise ConfigError(f"{missing.sum()} of {len(column)} values are missing (the first in row"
                          f" {missing.argmax()}): their rows would belong to no client; leave them"
                          " out or give them a value")  # fmt: skip
    try:
        kinds, found = np.unique(column, return_inverse=True)
    except TypeError:
        raise ConfigError("values of several types have no order: make them one") from None
    return kinds, found.reshape(-1)


def _is_itself(value: Any) -> bool:
    try:
        return bool(value == value)  # noqa: PLR0124  # NaN is not
    except (TypeError, ValueError):
        return False


def _check_clients(examples: int, parts: int, called: str = "clients") -> None:
    if parts < 1:
        raise ConfigError(f"{parts} {called}: give one at least")
    if examples < parts:
        raise ConfigError(f"{examples} examples are too few for {parts} {called}")
