"""A word to whoever waits at a terminal; silence elsewhere."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on standard error that ``what`` is going on, until it is over."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # not for those who do not wait: it takes its time to load

    with Console(stderr=True).status(what):
        yield
