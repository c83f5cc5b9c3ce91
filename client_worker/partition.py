"""Dealing one data set out among clients: a list of disjoint index arrays, one for each.

All clients of a simulation compute the same list from the same seed and take the part of their own
``shard``: nobody has to hand it out.
"""

from typing import Any

import numpy as np

from shared.errors import ConfigError

Array = np.ndarray[Any, Any]


def iid(n: int, clients: int, seed: int) -> list[Array]:
    """``n`` examples dealt out at random, to each client as many."""
    return np.array_split(np.random.default_rng(seed).permutation(n), clients)


def shards(labels: Array, clients: int, per_client: int, seed: int) -> list[Array]:
    """Sorted by label, cut into shards, ``per_client`` of them to each (McMahan 2017)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    cut = np.array_split(order, clients * per_client)
    dealt = rng.permutation(len(cut)).reshape(clients, per_client)
    return [np.concatenate([cut[shard] for shard in mine]) for mine in dealt]


def by_column(values: Array) -> list[Array]:
    """A client for each value that occurs, such as a hospital or a region, in their order."""
    return [np.flatnonzero(values == value) for value in np.unique(values)]


def dirichlet(labels: Array, clients: int, alpha: float, seed: int, least: int = 10) -> list[Array]:
    """Each class dealt out in proportions drawn from Dirichlet(``alpha``) (Hsu et al. 2019).

    The smaller ``alpha``, the fewer classes a client has. One that would be left with fewer than
    ``least`` examples is given some of the richest's. Raises ConfigError if there are too few.
    """
    if len(labels) < least * clients:
        raise ConfigError(f"{len(labels)} examples are too few for {least} at {clients} clients")
    rng = np.random.default_rng(seed)
    held: list[list[int]] = [[] for _ in range(clients)]
    for kind in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == kind))
        bounds = np.cumsum(rng.dirichlet([alpha] * clients))[:-1] * len(members)
        for mine, part in zip(held, np.split(members, bounds.astype(int)), strict=True):
            mine.extend(part.tolist())
    for mine in held:
        while len(mine) < least:
            mine.append(max(held, key=len).pop())
    return [rng.permutation(mine) for mine in held]
