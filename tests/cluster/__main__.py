"""``python -m tests.cluster --case redelivery --partitions ignore --runs 100``: one case, often.

``--losses 300`` instead loses nodes at random, so many times, on one cluster.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.cluster.cases import CASES, play
from tests.cluster.losses import run
from tests.cluster.nodes import cluster

HANDLINGS = ("ignore", "pause_minority", "autoheal", "khepri")


def main() -> int:
    """Run; 0 if every run was exact and nothing got stuck."""
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--partitions", choices=HANDLINGS, default="ignore")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--losses", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0, help="at most, of losses")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", type=Path, default=Path("runs/cluster"))
    given = parser.parse_args()
    found: Counter[str] = Counter()
    root = Path(tempfile.mkdtemp(prefix="warren-cluster-"))
    try:
        if given.losses:
            return _lose(root, given)
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


def _lose(root: Path, given: argparse.Namespace) -> int:
    folder = (given.out / f"losses-{given.partitions}-{given.seed}").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    with cluster(root, given.partitions) as nodes:
        report = run(nodes, folder, given.losses, given.minutes, given.seed)
        report["nodes_started_anew"] = nodes.started_anew
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))  # noqa: T201
    return 0 if report["is_exact"] and not report["stuck"] else 1


def _emptied(root: Path) -> Path:
    for part in root.iterdir():
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    return root


if __name__ == "__main__":
    sys.exit(main())
