"""What fewer bytes save: a round's seconds with updates and models in each encoding, and raw.

``python -m benchmarks.compression``: the federation of `benchmarks.protection`, models signed, once
for each way in turn, so that all see the machine's slow moments. On one machine bytes cost memory
and the broker's time; over a line they cost more: ``--line 10mbit`` does the same in a network
namespace whose loopback is no faster than that. There the coordinator shares the line with the
clients. It needs root, for ``unshare`` and ``tc``.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from benchmarks.harness.matrix import parse_cases
from benchmarks.harness.preparation import prepare
from benchmarks.protection import ENCRYPTION, Way, measure, parser, rows_of
from benchmarks.reporting.report import publish
from warren_shared.tensors.compression import ENCODINGS, RAW
from warren_shared.tensors.model_change import DOWNLINKS

if TYPE_CHECKING:
    from benchmarks.reporting.rows import Row

CASES: Final = "2x4MB,10x4MB,10x40MB"
CASES_ON_LINE: Final = "2x4MB"
PLAIN: Final = Way(RAW, ENCRYPTION)
BOTH_WAYS: Final = tuple(
    Way(f"{name} both ways", ENCRYPTION, more=("--uplink", name, "--downlink", name))
    for name in DOWNLINKS
)
WAYS: Final = (
    PLAIN,
    *(Way(name, ENCRYPTION, more=("--uplink", name)) for name in ENCODINGS),
    *BOTH_WAYS,
)
SHAPED: Final = (
    'ip link set lo up && tc qdisc add dev lo root tbf rate $0 burst 128kb latency 60s && exec "$@"'
)
IS_SHAPED: Final = "WARREN_BENCH_LINE"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    flags = parser(__doc__, CASES)
    flags.add_argument("--line", help="the rate of a shaped loopback, such as 10mbit")
    given = flags.parse_args(argv)
    line: str | None = given.line
    if line is not None and os.environ.get(IS_SHAPED) != line:
        _begin_again_on(line, sys.argv[1:] if argv is None else argv)
    prepare()
    short: bool = given.short
    cases = "2x4MB" if short else CASES_ON_LINE if line else CASES
    ways = (PLAIN, *BOTH_WAYS) if line else WAYS
    repetitions, rounds = (1, 4) if short else (2, 4) if line else (5, 12)
    timeout_s = 1800.0 if line else 300.0
    rows: list[Row] = []
    for case in given.cases or parse_cases(cases):
        rows += rows_of(case, measure(case, ways, repetitions, rounds, timeout_s))
    about = f", over a line of {line}" if line else ""
    name = "compression-line" if line else "compression"
    publish(name, f"A round with updates and models in few bits{about}", rows, folder=given.out)
    return 0


def _begin_again_on(line: str, arguments: Sequence[str]) -> None:
    """Become the same program in a network namespace of its own."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "ip", "tc"))):
        sys.exit("--line needs root, and the programs unshare, ip and tc (util-linux, iproute2)")
    os.environ[IS_SHAPED] = line
    words = ["unshare", "--net", "sh", "-c", SHAPED, line]
    os.execvp("unshare", [*words, sys.executable, "-m", "benchmarks.compression", *arguments])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
