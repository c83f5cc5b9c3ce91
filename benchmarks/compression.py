"""What fewer bytes save: a round's seconds with updates in each encoding (``--uplink``), and raw.

``python -m benchmarks.compression``: the federation of `benchmarks.protection`, models signed, once
for each encoding in turn, so that all see the machine's slow moments. On one machine bytes cost
memory and the broker's time; over a line they cost more.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from benchmarks.harness.matrix import parse_cases
from benchmarks.harness.preparation import prepare
from benchmarks.protection import ENCRYPTION, Way, measure, parser, rows_of
from benchmarks.reporting.report import publish
from warren_shared.tensors.compression import ENCODINGS, RAW

if TYPE_CHECKING:
    from benchmarks.reporting.rows import Row

CASES: Final = "2x4MB,10x4MB,10x40MB"
WAYS: Final = (
    Way(RAW, ENCRYPTION),
    *(Way(name, ENCRYPTION, more=("--uplink", name)) for name in ENCODINGS),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = parser(__doc__, CASES).parse_args(argv)
    prepare()
    short: bool = given.short
    rows: list[Row] = []
    for case in given.cases or parse_cases("2x4MB" if short else CASES):
        rows += rows_of(case, measure(case, WAYS, 1 if short else 5, 4 if short else 12))
    publish("compression", "A round with updates in few bits", rows, folder=given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
