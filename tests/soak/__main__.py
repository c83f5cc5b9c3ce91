"""``python -m tests.soak --seconds 600``: honest rounds among all hostile acts at once.

Attackers, each a thread, do acts of `tests.acceptance.withstood` in random order against one
coordinator whose honest clients go on. Before and after, what it holds is looked at; the run fails
if its peak memory or its checkpoint has grown by more than a tenth, or an honest round took longer
than `tests.acceptance.scene.ROUND_S`.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

from pika import exceptions

from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle as private_node
from broker_config.node.ports import Ports
from coordinator_worker.state.training_state import HISTORY_ROUNDS
from tests.acceptance.scene import ROUND_S, RUN, WEIGHTS, Scene
from tests.acceptance.withstood import ACTS, Hostile
from tests.conftest import new_place
from tests.support.hostile import raw_headers
from tests.support.ports import free_port

WARM_UP: Final = HISTORY_ROUNDS + 100  # honest rounds, after which a federation grows no more
COOL_DOWN: Final = 3
STUCK_S: Final = 120.0  # a slow round is reported in the end, one that never closes ends the run
GROWTH: Final = 1.10
MIB: Final = 1 << 20


def main() -> int:
    """Run; 0 if neither peak memory nor checkpoint has grown by more than a tenth."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of hostility (default: 600)")
    parser.add_argument("--seed", type=int, default=7, help="of the order of the acts")
    parser.add_argument("--attackers", type=int, default=3, help="how many at once")
    parser.add_argument("--rest-s", type=float, default=0.0, help="after each act, per attacker")
    parser.add_argument("--act", action="append", default=[], help="only acts named so")
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="warren-soak-"))
    (home / "checkpoint").mkdir()
    try:
        server = os.environ.get("WARREN_TEST_RABBITMQ_SERVER")
        ports = Ports(prometheus=free_port())
        node = private_node.up(home / "node", Federation(fleets=()), ports, server=server)
        with new_place(node) as place, raw_headers():
            scene = Scene(place, home / "checkpoint")
            try:
                return _soak(scene, given)
            finally:
                scene.close()
    finally:
        private_node.down(home / "node")
        shutil.rmtree(home, ignore_errors=True)


def _soak(scene: Scene, given: argparse.Namespace) -> int:
    _rounds(scene, WARM_UP)
    before = _measured(scene)
    _say("before", before)
    done: Counter[str] = Counter()
    over = threading.Event()
    orders = [random.Random(given.seed + number) for number in range(given.attackers)]  # noqa: S311
    attackers = [
        threading.Thread(target=_attack, args=(scene, order, given, done, over)) for order in orders
    ]
    for attacker in attackers:
        attacker.start()
    began = time.monotonic()
    rounds, slowest, told = 0, 0.0, began
    try:
        while time.monotonic() - began < given.seconds:
            start = time.monotonic()
            _rounds(scene, 1)
            rounds += 1
            slowest = max(slowest, time.monotonic() - start)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                _say(f"{told - began:.0f} s", _measured(scene), f"{sum(done.values())} acts")
    finally:
        over.set()
        for attacker in attackers:
            attacker.join()
    _rounds(scene, COOL_DOWN)
    after = _measured(scene)
    _say("after", after)
    print(  # noqa: T201
        f"{sum(done.values())} acts of {len(done)} kinds beside {rounds} honest rounds,"
        f" the slowest of {slowest:.1f} s"
    )
    grown = any(now > GROWTH * then for then, now in zip(before[1:], after[1:], strict=True))
    slow = slowest > ROUND_S
    if grown:
        print(f"FAILED: more than {GROWTH - 1:.0%} larger")  # noqa: T201
    if slow:
        print(f"FAILED: an honest round took longer than {ROUND_S:.0f} s")  # noqa: T201
    if not grown and not slow:
        print("passed")  # noqa: T201
    return 1 if grown or slow else 0


def _rounds(scene: Scene, count: int) -> None:
    for _ in range(count):
        scene.honest_round(STUCK_S)
        scene.coordinator.lines.clear()  # an hour of its log would be more than it


def _attack(
    scene: Scene, order: random.Random, given: argparse.Namespace, done: Counter[str],
    over: threading.Event,
) -> None:  # fmt: skip
    acts = [act for acts in ACTS.values() for act in acts if not given.act or act.name in given.act]
    while not over.is_set():
        act = order.choice(acts)
        hostile = Hostile(scene.place, act.user, RUN, scene.version, WEIGHTS)
        try:
            act.does(hostile)
        except (exceptions.AMQPError, OSError):
            done["(refused by the broker)"] += 1  # it has too many connections already
        else:
            done[act.name] += 1
        over.wait(given.rest_s)


def _measured(scene: Scene) -> tuple[float, float, float]:
    """Resident and peak memory, and checkpoint, in MiB."""
    status = Path(f"/proc/{scene.coordinator.process.pid}/status").read_text()
    peak = next(int(ln.split()[1]) for ln in status.splitlines() if ln.startswith("VmHWM"))
    seen = scene.seen()
    return seen.resident / MIB, peak / 1024, seen.checkpoint / MIB


def _say(when: str, measured: tuple[float, float, float], more: str = "") -> None:
    resident, peak, kept = measured
    words = (
        f"{when:>8}: resident {resident:.0f} MiB, peak {peak:.0f}, checkpoint {kept:.2f}  {more}"
    )
    print(words, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
