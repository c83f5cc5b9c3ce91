"""A short run of the suite that kills a private run; ``python -m tests.chaos.private`` is long."""

import random
from pathlib import Path

from tests.chaos.private import run

KILLS = 10


def test_whatever_is_killed_the_promise_is_kept(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    outcome = run(KILLS, seed, tmp_path, lambda _: None)
    assert not outcome.faults, f"seed {seed}: {outcome.faults}"
    assert outcome.rounds > 5
