"""``python -m tests.chaos.secure --faults 300``: masked updates, and everything killed at random.

Every update that was confirmed is in one model, with the weight that the audit log gives it, or it
still waits; no version is stuck; and the keeper has given one sum for a version, and no update in
two of them.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from dotenv import dotenv_values

from broker_config.node import lifecycle as private_node
from broker_config.secrets.bundles import bundle_path
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.audit_files import read
from keeper_worker import keys
from tests.chaos import faults
from tests.chaos.crew import Post
from tests.chaos.faults import Fault
from tests.chaos.stage import CLIENTS, FOREVER, QUORUM, Plan, Stage, Stuck
from warren_shared.amqp.queue_browser import peek
from warren_shared.naming import UPDATE_QUEUE
from warren_shared.protocol.codec import decode
from warren_shared.protocol.encryption import UpdateDecryptor
from warren_shared.protocol.messages import Sealed, UpdateManifest
from warren_shared.tls import Broker

LEAST: Final = 3
# One for the ledger's number and 1,024 for those of the clock: a norm of 32.
SECURE: Final = f"clip=64,least={LEAST}"
EMPTY_S: Final = 20.0
NEAR: Final = 1e-6
KEEPERS: Final = ("keeper-a", "keeper-b")
SLOTS: Final = 4000


def kill_keeper(stage: Stage) -> None:
    stage.crew.send(stage.random.choice(KEEPERS), signal.SIGKILL)


def kill_both_keepers(stage: Stage) -> None:
    for name in KEEPERS:
        stage.crew.send(name, signal.SIGKILL)


def halt_keeper(stage: Stage) -> None:
    name = stage.random.choice(KEEPERS)
    stage.crew.send(name, signal.SIGSTOP)
    stage.pause(stage.random.choice([0.5, 2.0]))
    stage.crew.send(name, signal.SIGCONT)


KINDS: Final[dict[Fault, float]] = {
    kill_keeper: 10,
    kill_both_keepers: 3,
    halt_keeper: 2,
    faults.kill_client: 10,
    faults.stop_client: 2,
    faults.kill_coordinator: 8,
    faults.kill_both_coordinators: 3,
    faults.halt_coordinator: 1,
    faults.kill_broker: 1,
    faults.cut_wire: 8,
    faults.cut_wire_at_once: 5,
    faults.slow_wire: 1,
}


@dataclass(frozen=True)
class Outcome:
    """What was found; ``faults`` tells in words what should not be."""

    kills: Counter[str]
    rounds: int
    confirmed: int
    waiting: int
    faults: list[str]


class SecureStage(Stage):
    """A federation with two keepers, of which one stands by."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder)
        self.kept = folder / "keeper"
        self.kept.mkdir()
        made, _ = keys.make(self.kept)
        self.federation = replace(self.federation, keeper=made.public_line, encrypt_updates=True)
        self.node = private_node.up(self.home, self.federation, server=plan.server)

    def open(self) -> None:
        """Start the workers."""
        for name in KEEPERS:
            self._wire(name, "keeper")
            arguments = ["--state-dir", str(self.kept), "--least", str(LEAST)]
            arguments += ["--wait-broker-s", FOREVER]
            self.crew.add(Post(name, "keeper-worker", arguments, self._environment(name)))
        super().open()

    def coordinator(self, name: str, quorum: int = QUORUM) -> Post:
        """A coordinator; all share one checkpoint folder."""
        post = super().coordinator(name, quorum)
        more = ["--secure", SECURE, "--aggregator", "uniform", "--clients", "100"]
        return replace(post, arguments=[*post.arguments, *more])

    def _environment(self, name: str) -> dict[str, str]:
        user = name if name.startswith("client") else name.partition("-")[0]
        bundle = dotenv_values(bundle_path(self.home, user))
        told = {key: value for key, value in bundle.items() if value is not None}
        return told | super()._environment(name)


def run(kills: int, seed: int, folder: Path, told: Callable[[str], None]) -> Outcome:
    """Do so many faults, and reckon."""
    plan = Plan(0.0, seed, slots=SLOTS, padding=260_000 if seed % 2 else 1, training_s=0.1)
    stage = SecureStage(plan, folder)
    done: Counter[str] = Counter()
    found: list[str] = []
    waiting: set[tuple[str, int]] = set()
    try:
        stage.open()
        stage.wait_for_progress()
        try:
            for number in range(kills):
                (fault,) = stage.random.choices(list(KINDS), list(KINDS.values()))
                fault(stage)
                done[fault.__name__] += 1
                stage.pause(stage.random.uniform(0.0, 0.4))
                if number % 10 == 9:
                    stage.wait_for_progress()
                    told(f"{number + 1} of {kills}: version {stage.crew.version}")
            stage.wait_for_progress(3)
        except Stuck as error:
            found.append(f"{error}, after {done.total()} faults")
        _settle(stage)
        waiting = _waiting(stage)
        found += stage.crew.unexpected
        found += [
            f"rejected: {record['message']}"
            for name in ("coordinator-a", "coordinator-b")
            for record in stage.crew.records(name)
            if record["action"] == "update_rejected"
        ]
        found += [f"{name} has a traceback" for name in stage.crew.tracebacks()]
    finally:
        stage.close()
    rounds = _rounds(stage.checkpoints)
    confirmed = set(_confirmed(stage))
    found += _wrong_models(stage, rounds)
    found += _wrong_updates(rounds, confirmed, waiting)
    found += _two_sets(stage.kept)
    return Outcome(done, len(rounds), len(confirmed), len(waiting), found)


def _settle(stage: SecureStage) -> None:
    """Let the clients go, and the rounds that are still full close."""
    for name in stage.crew.names("client"):
        stage.crew.remove(name)
    for wire in stage.wires.values():
        wire.release()
    stage.crew.last_news = time.monotonic()
    stage.until(lambda: time.monotonic() > stage.crew.last_news + EMPTY_S, 10 * EMPTY_S)
    for name in (*stage.crew.names("coordinator"), *stage.crew.names("keeper")):
        stage.crew.remove(name)


def _waiting(stage: SecureStage) -> set[tuple[str, int]]:
    """Updates that are still in the queue, too few for a round."""
    bundle = dotenv_values(bundle_path(stage.home, "coordinator"))
    opener = UpdateDecryptor.of(bundle["WARREN_DECRYPT_KEYS"], stage.federation.name)
    broker = Broker(str(bundle["WARREN_BROKER_URL"]))
    found = set()
    for letter in peek(broker, "reckoning", UPDATE_QUEUE):
        sealed, data = decode(letter.body)
        if not isinstance(sealed, Sealed):
            continue
        message, _ = decode(opener.open(sealed, data, letter.user))
        if isinstance(message, UpdateManifest):
            found.add((message.client, message.base_version))
    return found


def _rounds(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """What each version is made of, as the audit log says; of one that was begun twice the last."""
    found = {}
    for _, text in read(folder):
        line = json.loads(text)
        if line["event"] == "aggregated":
            found[line["version"]] = line["contributions"]
    return found


def _confirmed(stage: Stage) -> Iterator[tuple[str, int]]:
    for name in CLIENTS:
        for record in stage.crew.records(name):
            if record["action"] == "update_confirmed":
                yield name, record["base_version"]


def _wrong_models(stage: Stage, rounds: dict[int, list[dict[str, Any]]]) -> list[str]:
    """Whether the ledger in the model is what the audit log says is in it."""
    expected = np.zeros((len(CLIENTS), stage.plan.slots))
    for contributions in rounds.values():
        for one in contributions:
            index = CLIENTS.index(one["client"])
            expected[index, one["base_version"]] += 1 / len(contributions)
    state = checkpoint.load(stage.checkpoints)
    if state is None or state.version != len(rounds):
        return [f"{len(rounds)} rounds, and the checkpoint is {state and state.version}"]
    off = np.abs(np.asarray(state.weights[0]) - expected)
    if off.max() > NEAR:
        client, version = np.unravel_index(int(off.argmax()), off.shape)
        return [f"the update of client-{client} to {version} is off by {off.max():g}"]
    return []


def _wrong_updates(
    rounds: dict[int, list[dict[str, Any]]],
    confirmed: set[tuple[str, int]],
    waiting: set[tuple[str, int]],
) -> list[str]:
    counted = Counter(
        (one["client"], one["base_version"]) for given in rounds.values() for one in given
    )
    lost = confirmed - set(counted) - waiting
    twice = [one for one, times in counted.items() if times > 1]
    return [f"lost: {one}" for one in sorted(lost)] + [f"twice: {one}" for one in sorted(twice)]


def _two_sets(kept: Path) -> list[str]:
    """Whether the keeper's ledger has one set for a version, and each update once."""
    found: list[str] = []
    versions: Counter[tuple[str, int]] = Counter()
    updates: dict[tuple[str, str], set[int]] = defaultdict(set)
    for line in (kept / "ledger.jsonl").read_text().splitlines():
        told = json.loads(line).get("revealed")
        if told is None:
            continue
        versions[told["run"], told["version"]] += 1
        for row in told["updates"]:
            updates[told["run"], row[2]].add(told["version"])
    found += [f"two sets for {one}" for one, times in versions.items() if times > 1]
    found += [f"{one} in the sums {given}" for one, given in updates.items() if len(given) > 1]
    return found if versions else [*found, "the keeper gave nothing"]


def main() -> int:
    """Run; 0 if the reckoning is exact."""
    parser = argparse.ArgumentParser(prog="secure", description=__doc__)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="warren-secure-") as name:
        outcome = run(given.faults, given.seed, Path(name), lambda words: print(words, flush=True))  # noqa: T201
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.kills.items()))
    told = (
        f"seed {given.seed}: {outcome.kills.total()} faults ({kinds}), {outcome.rounds} rounds,"
        f" {outcome.confirmed} updates confirmed, {outcome.waiting} of them waiting"
    )
    print(told, *outcome.faults or ["every one was counted once"], sep="\n")  # noqa: T201
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
