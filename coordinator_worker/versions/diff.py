"""How two models differ, tensor by tensor, and in what they are worth."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Final

import numpy as np
from rich.table import Table
from rich.text import Text

from coordinator_worker.text.formatting import plain
from coordinator_worker.text.table import console
from coordinator_worker.versions.registry import Model, ModelRegistry
from warren_shared import strict_json
from warren_shared.tensors.layout import Array

BLOCK: Final = 1 << 20  # numbers at a time, as float64


@dataclass(frozen=True)
class Difference:
    """What tells tensor b from tensor a.

    ``norm``: L2 norm of b - a; ``relative``: its share of a's norm (None: a is zero); ``largest``:
    the largest absolute difference; ``cosine`` of the angle between a and b (None: one is zero);
    ``changed``: share of the numbers that are others.
    """

    tensor: str
    numbers: int
    norm: float
    relative: float | None
    largest: float
    cosine: float | None
    changed: float


@dataclass
class _Sums:
    numbers: int = 0
    square_a: float = 0.0
    square_b: float = 0.0
    product: float = 0.0
    square: float = 0.0
    largest: float = 0.0
    changed: int = 0

    def add(self, a: Array, b: Array) -> None:
        difference = b - a
        self.numbers += a.size
        self.square_a += float(a @ a)
        self.square_b += float(b @ b)
        self.product += float(a @ b)
        self.square += float(difference @ difference)
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        self.changed += int(np.count_nonzero(difference))

    def named(self, tensor: str) -> Difference:
        norms = sqrt(self.square_a) * sqrt(self.square_b)
        return Difference(
            tensor,
            self.numbers,
            sqrt(self.square),
            sqrt(self.square / self.square_a) if self.square_a else None,
            self.largest,
            min(1.0, max(-1.0, self.product / norms)) if norms else None,
            self.changed / self.numbers if self.numbers else 0.0,
        )


def differences(a: Model, b: Model) -> list[Difference]:
    """One for each tensor, and the last one for the whole model (``tensor`` is empty)."""
    whole, found = _Sums(), []
    for tensor, one, other in zip(a.weights.layout.tensors, a.weights, b.weights, strict=True):
        sums = _Sums()
        for block in _blocks(one, other):
            sums.add(*block)
            whole.add(*block)
        found.append(sums.named(tensor.name))
    return [*found, whole.named("")]


def show(past: ModelRegistry, first: str, second: str, *, as_json: bool) -> None:
    """Print how the models that these words name differ."""
    a, b = past.find(first), past.find(second)
    found = differences(a, b)
    metrics = [past.metrics(m.version) if m.version is not None else {} for m in (a, b)]
    if as_json:
        told: dict[str, Any] = {"a": a.name, "b": b.name}
        told["tensors"] = [asdict(each) for each in found[:-1]]
        told["model"] = {k: v for k, v in asdict(found[-1]).items() if k != "tensor"}
        told["metrics"] = {"a": metrics[0], "b": metrics[1]}
        sys.stdout.write(strict_json.lines([told]))
        return
    out = console()
    out.print(Text(f"from {plain(a.name)} to {plain(b.name)}", "bold"))
    out.print(_table(found))
    if any(metrics):
        out.print()
        out.print(_side_by_side((plain(a.name), plain(b.name)), metrics))


def _blocks(one: Array, other: Array) -> Iterator[tuple[Array, Array]]:
    flat = one.ravel(), other.ravel()
    for start in range(0, flat[0].size, BLOCK):
        yield tuple(array[start : start + BLOCK].astype(np.float64) for array in flat)  # type: ignore[misc]


def _table(found: Sequence[Difference]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("tensor")
    for heading in ("numbers", "norm", "of a's norm", "largest", "cosine", "changed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        style = None if each.tensor else "bold"
        table.add_row(
            Text(plain(each.tensor) if each.tensor else "the whole model"),
            f"{each.numbers:,}",
            f"{each.norm:.4g}",
            "–" if each.relative is None else f"{each.relative:.2%}",
            f"{each.largest:.4g}",
            "–" if each.cosine is None else f"{each.cosine:.6f}",
            f"{each.changed:.1%}",
            style=style,
        )
    return table


def _side_by_side(names: tuple[str, str], metrics: Sequence[dict[str, float]]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("metric")
    for heading in (*names, "change"):
        table.add_column(Text(heading), justify="right")
    a, b = metrics
    for name in dict.fromkeys((*a, *b)):
        both = name in a and name in b
        table.add_row(
            Text(plain(name)),
            f"{a[name]:.4g}" if name in a else "–",
            f"{b[name]:.4g}" if name in b else "–",
            f"{b[name] - a[name]:+.4g}" if both else "–",
        )
    return table
