"""Which client holds which examples: lists of disjoint index arrays, one for each client."""

from typing import Any

import numpy as np

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


def dirichlet(labels: Array, clients: int, alpha: float, seed: int) -> list[Array]:
    """Each class dealt out in proportions drawn from Dirichlet(``alpha``) (Hsu et al. 2019).

    A client who would be left with fewer than ten examples is given some of the richest's.
    """
    rng = np.random.default_rng(seed)
    held: list[list[int]] = [[] for _ in range(clients)]
    for kind in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == kind))
        bounds = np.cumsum(rng.dirichlet([alpha] * clients))[:-1] * len(members)
        for mine, part in zip(held, np.split(members, bounds.astype(int)), strict=True):
            mine.extend(part.tolist())
    for mine in held:
        while len(mine) < 10:
            mine.append(max(held, key=len).pop())
    return [rng.permutation(mine) for mine in held]
