"""``python -m tests.cluster --case redelivery --partitions ignore --runs 100``: one case, often."""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.cluster.cases import CASES, play
from tests.cluster.nodes import cluster

HANDLINGS = ("ignore", "pause_minority", "autoheal", "khepri")


def main() -> int:
    """Run; 0 if every run was exact and nothing got stuck."""
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--partitions", choices=HANDLINGS, default="ignore")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/cluster"))
    given = parser.parse_args()
    found: Counter[str] = Counter()
    root = Path(tempfile.mkdtemp(prefix="warren-cluster-"))
    try:
        for number in range(given.runs):
            for case in given.case or CASES:  # a node that was cut off may have to be started anew
                with cluster(_emptied(root), given.partitions) as nodes:
                    folder = (given.out / f"{given.partitions}-{case}-{number}").resolve()
                    shutil.rmtree(folder, ignore_errors=True)
                    began = time.monotonic()
                    reckoning, stuck = play(case, nodes, folder)
                    well = reckoning.is_exact and not stuck
                    found[f"{case}: {'well' if well else 'WRONG'}"] += 1
                    taken = time.monotonic() - began
                    print(f"{number} {case} {taken:.0f} s {reckoning} {stuck}", flush=True)  # noqa: T201
                    if well:
                        shutil.rmtree(folder)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(dict(found))  # noqa: T201
    return 1 if any("WRONG" in what for what in found) else 0


def _emptied(root: Path) -> Path:
    for part in root.iterdir():
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    return root


if __name__ == "__main__":
    sys.exit(main())
