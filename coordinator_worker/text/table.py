"""Tables that fit: when there is no room, what matters least goes first; a pipe gets everything."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE: Final = 100  # columns from which there is room for wider gaps
LONGEST: Final = 24  # of a cell that is shown whole in any case
PIPE_COLUMNS: Final = 1000  # a pipe has no edge


@dataclass
class Column:
    """A column of a table; of the ``optional`` ones the last goes first when there is no room."""

    heading: str
    cells: Sequence[Text | str]
    optional: bool = False
    numbers: bool = True

    @property
    def width(self) -> int:
        """Characters that it takes."""
        return max([len(self.heading), *map(len, self.cells)])


def console(width: int | None = None) -> Console:
    """Standard output as wide as the terminal (or COLUMNS) says; in a pipe as wide as it takes."""
    wide = width if width is not None or sys.stdout.isatty() else _columns() or PIPE_COLUMNS
    return Console(width=wide, highlight=False)


def fitted(columns: Sequence[Column], width: int) -> Table:
    """A table of those ``columns`` that fit into ``width`` characters."""
    shown = list(columns)
    gap = 2 if width >= WIDE else 1
    while sum(column.width + gap for column in shown) > width + gap:
        last = next((column for column in reversed(shown) if column.optional), None)
        if last is None:
            break
        shown = [column for column in shown if column is not last]
    table = Table(box=None, header_style="dim", padding=(0, gap, 0, 0), pad_edge=False)
    for column in shown:
        table.add_column(
            Text(column.heading),
            justify="right" if column.numbers else "left",
            no_wrap=True,
            min_width=min(column.width, LONGEST),
        )
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*cells)
    return table


def _columns() -> int | None:
    """COLUMNS, if somebody has set it to a number."""
    found = os.environ.get("COLUMNS", "")
    return int(found) if found.isdecimal() and int(found) else None
