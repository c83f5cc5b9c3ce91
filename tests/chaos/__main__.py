"""``python -m tests.chaos --minutes 10 --seed 7``: break a federation at random, and reckon."""

import argparse
import os
import random
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.chaos.run import run
from tests.chaos.stage import Plan, downlink_of
from warren_shared.tensors.model_change import DOWNLINKS


def main() -> int:
    """Run; 0 if the reckoning is exact."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of faults (default: 10)")
    parser.add_argument("--seed", type=int, help="the same faults again (default: a random one)")
    parser.add_argument(
        "--downlink", choices=("raw", *DOWNLINKS), help="of models (default: by the seed)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"), help="folder of the report")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    # From odd seeds the model is 3 MiB, so that an update is three messages and may be cut apart.
    padding = 260_000 if seed % 2 else 1
    plan = Plan(
        given.minutes * 60,
        seed,
        padding=padding,
        downlink=given.downlink or downlink_of(seed),
        server=os.environ.get("WARREN_TEST_RABBITMQ_SERVER"),
    )
    console = Console()
    console.print(f"chaos: seed {seed}, {given.minutes:g} minutes, report in {given.out}")
    shutil.rmtree(given.out, ignore_errors=True)
    with Live(console=console, refresh_per_second=2) as live:
        report = run(
            plan,
            given.out,
            lambda share, faults, version: live.update(
                Text(f"{share:6.1%}  {faults.total()} faults, version {version}")
            ),
        )
    console.print(_table(report))
    console.print("passed" if report["passed"] else "FAILED", style="bold")
    return 0 if report["passed"] else 1


def _table(report: dict[str, object]) -> Table:
    table = Table(box=None, show_header=False)
    for name, value in report.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {count}" for key, count in value.items())
        table.add_row(name, str(value))
    return table


if __name__ == "__main__":
    sys.exit(main())
