"""What client-level privacy costs: a round's seconds with ``--privacy`` and without.

``python -m benchmarks.privacy``: the federation of `benchmarks.protection`, models signed, with and
without in turn, so that both see the machine's slow moments. With it the sum is of integers and
gets its noise, and no byte of a model is sent before the checkpoint is on the disk.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.harness.matrix import parse_cases
from benchmarks.harness.preparation import prepare
from benchmarks.protection import ENCRYPTION, Way, measure, parser, rows_of
from benchmarks.reporting.report import publish

if TYPE_CHECKING:
    from benchmarks.reporting.rows import Row

CASES: Final = "2x4MB,10x4MB,10x40MB"
PROMISE: Final = "epsilon=8,delta=1e-5,clip=1,contributions=1000,distance=1,small=true"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = parser(__doc__, CASES).parse_args(argv)
    prepare()
    short: bool = given.short
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="warren-bench-") as folder:
        for case in given.cases or parse_cases("2x4MB" if short else CASES):
            start = Path(folder) / "start.npz"
            np.savez(start, np.zeros(case.size_bytes // 4, np.float32))
            begun = ("--initial-model", str(start))
            ways = [Way("without", ENCRYPTION, more=begun)]
            for name in ("correlated", "gaussian"):
                told = (*begun, "--privacy", f"{name}:{PROMISE}")
                ways.append(Way(name, ENCRYPTION, more=told))
            rows += rows_of(case, measure(case, ways, 1 if short else 5, 4 if short else 12))
    publish("privacy", "A round with and without --privacy", rows, folder=given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
