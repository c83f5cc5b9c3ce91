"""A short run of the chaos suite; ``make chaos`` is the long one."""

import json
import random
from pathlib import Path

from tests.chaos.run import run
from tests.chaos.stage import Plan, downlink_of

SECONDS = 20.0


def test_whatever_breaks_every_confirmed_update_counts_once(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    padding = 260_000 if seed % 2 else 1
    plan = Plan(SECONDS, seed, padding=padding, downlink=downlink_of(seed))
    report = run(plan, tmp_path, lambda *_: None)
    assert report["passed"], json.dumps(report, indent=1)
    assert report["faults_total"] > 5
    assert report["updates_confirmed"] > 20
