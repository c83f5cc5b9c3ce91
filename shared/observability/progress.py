"""Progress bars and spinners on a terminal; nothing elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def through(
    items: Iterable[T],
    what: str,
    total: float | None = None,
    weight: Callable[[T], float] = lambda _item: 1.0,
) -> Iterator[T]:
    """``items``, while a bar on standard error says how many of ``total`` are through.

    ``weight`` says how much of the total an item is, such as its bytes. It is gone in the end, so
    what is printed then stands alone.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    # Imported for those who wait at a terminal alone: it takes its time to load.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if total is None else TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task, weight(item))


@contextmanager
def spinner(label: str) -> Iterator[None]:
    """Show ``label`` on standard error until the block ends."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield
