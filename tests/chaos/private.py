"""``python -m tests.chaos.private --kills 200``: a private run, and processes killed at random.

No client may be in more rounds, or sooner again, than was promised; what is spent never falls; and
every version that anybody has received is one model, noise and all.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.audit_files import read
from tests.chaos import faults
from tests.chaos.crew import Post
from tests.chaos.faults import Fault
from tests.chaos.stage import CLIENTS, FOREVER, Plan, Stage

CONTRIBUTIONS: Final = 10_000
DISTANCE: Final = 2
ROUNDS: Final = 10_000
PROMISE: Final = (
    f"correlated:epsilon=100,delta=1e-3,clip=1,contributions={CONTRIBUTIONS},distance={DISTANCE},"
    "small=true"
)
SIZE: Final = 300_000  # two messages, so that a model can be seen before it is whole
KINDS: Final[dict[Fault, int]] = {
    faults.kill_client: 6,
    faults.kill_coordinator: 6,
    faults.kill_both_coordinators: 3,
    faults.kill_broker: 1,
    faults.cut_wire: 2,
}


@dataclass(frozen=True)
class Outcome:
    """What was found; ``faults`` tells in words what should not be."""

    kills: int
    rounds: int
    spent: list[int]
    faults: list[str]


class PrivateStage(Stage):
    """A federation of models that are noised, and whose digests clients note."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder)
        self._start = folder / "start.npz"
        np.savez(self._start, np.zeros(SIZE, np.float32))

    def _client(self, name: str) -> Post:
        kept = ["--state-dir", str(self.folder / "kept")] if int(name[-1]) % 2 else []
        arguments = ["--task", "tests.chaos.task:restless", "--wait-broker-s", FOREVER, *kept]
        return Post(
            name,
            "client-worker",
            [*arguments, "--size", str(SIZE), "--seen", str(self.folder / f"seen-{name}.txt")],
            self._environment(name),
        )

    def coordinator(self, name: str, quorum: int = 2) -> Post:
        """A coordinator; all share one checkpoint folder."""
        arguments = ["--checkpoint-dir", str(self.checkpoints), "--quorum", str(quorum)]
        arguments += ["--rounds", str(ROUNDS)]
        arguments += ["--initial-model", str(self._start), "--privacy", PROMISE]
        arguments += ["--wait-broker-s", FOREVER, "--keep-versions", "0"]
        return Post(name, "coordinator-worker", arguments, self._environment(name))


def run(kills: int, seed: int, folder: Path, told: Callable[[str], None]) -> Outcome:
    """Kill so often, and look at what has become of the promise."""
    plan = Plan(0.0, seed, slots=1, padding=8 * SIZE)
    stage = PrivateStage(plan, folder)
    spent: list[int] = []
    found: list[str] = []
    try:
        stage.open()
        stage.wait_for_progress()
        for number in range(kills):
            (fault,) = stage.random.choices(list(KINDS), list(KINDS.values()))
            fault(stage)
            stage.pause(stage.random.uniform(0.0, 0.4))
            if number % 5 == 4:
                stage.wait_for_progress()
                state = checkpoint.load(stage.checkpoints)
                spent.append(state.privacy.done if state is not None and state.privacy else 0)
                told(f"{number + 1} of {kills}: round {spent[-1]}")
        for name in (*stage.crew.names("client"), *stage.crew.names("coordinator")):
            stage.crew.remove(name)
        found += stage.crew.unexpected
        found += [f"{name} has a traceback" for name in stage.crew.tracebacks()]
    finally:
        stage.close()
    if spent != sorted(spent):
        found.append("what was spent fell")
    found += _beyond_the_promise(stage.checkpoints)
    found += _two_models(folder)
    return Outcome(kills, spent[-1] if spent else 0, spent, found)


def _beyond_the_promise(checkpoints: Path) -> list[str]:
    rounds = defaultdict(list)
    for _, text in read(checkpoints):
        line = json.loads(text)
        if line["event"] == "aggregated":
            for entry in line["contributions"]:
                rounds[entry["client"]].append(line["version"])
    found = []
    for client, versions in rounds.items():
        if len(versions) > CONTRIBUTIONS:
            found.append(f"{client} is in {len(versions)} rounds")
        near = [n for n, m in zip(versions[1:], versions, strict=False) if n - m < DISTANCE]
        if near:
            found.append(f"{client} is back too soon in {near[:5]}")
    return found if len(rounds) > len(CLIENTS) // 2 else [*found, "hardly anybody took part"]


def _two_models(folder: Path) -> list[str]:
    published = defaultdict(set)
    for _, text in read(folder / "checkpoint"):
        line = json.loads(text)
        if line["event"] == "published":
            published[line["version"]].add(line["digest"])
    known = {digest for digests in published.values() for digest in digests}
    seen = {
        digest
        for path in folder.glob("seen-*.txt")
        for digest in path.read_text().split("\n")[:-1]  # a killed client may not have finished
    }
    found = [f"version {v} was more than one model" for v, d in published.items() if len(d) > 1]
    # Those whose coordinator was killed before it could say so were published again.
    return found + [f"a client has a model that is no version's: {one}" for one in seen - known]


def main() -> int:
    """Run; 0 if the promise was kept."""
    parser = argparse.ArgumentParser(prog="private", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warren-private-") as name:
        outcome = run(given.kills, given.seed, Path(name), lambda words: print(words, flush=True))  # noqa: T201
    told = f"seed {given.seed}: {outcome.kills} kills, {outcome.rounds} rounds"
    print(told, *outcome.faults or ["the promise was kept"], sep="\n")  # noqa: T201
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
