"""Nodes of a cluster lost at random: killed, halted, cut off or restarted, and then two at once.

Everybody's URL names all three nodes. While one of them is lost rounds go on; while two are,
nothing does, and afterwards every confirmed update counts once.
"""

import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from tests.chaos.crew import Post
from tests.chaos.run import settle
from tests.chaos.stage import CLIENTS, QUORUM, STUCK_S, Stuck
from tests.cluster.nodes import ADMIN, NODES, Cluster
from tests.cluster.stage import VHOST, ClusterStage

ROUNDS: Final = 2  # that have to close while a node is lost
WITHIN_S: Final = 60.0
MAJORITY_S: Final = 8.0  # for which two nodes are lost
EVERY: Final = 10  # faults of one node for each of a majority


class WholeCluster(ClusterStage):
    """A federation whose workers know every node.

    About as many clients train from a version as a round takes: what eight send would be more than
    one coordinator folds, and after ten minutes the nodes would be short of memory.
    """

    quiet_s = 20.0  # another node's copy of a long queue may have to be read first

    def __init__(self, cluster: Cluster, folder: Path, seed: int = 0) -> None:
        super().__init__(cluster, folder, NODES[0])
        self.random = random.Random(seed)  # noqa: S311

    @property
    def hosts(self) -> str:
        """The nodes, as a broker URL names them."""
        return ",".join(self.cluster.amqp(node) for node in NODES)

    def prepare_broker(self) -> None:
        """Declare the federation."""
        clients = [word for name in CLIENTS for word in ("--client", name)]
        at = ",".join(f"{self.cluster.machines[node].address}:15672" for node in NODES)
        self.cluster.broker_config(
            "apply", "--home", str(self.home), "--federation", VHOST, *clients,
            "--management-url", f"http://{ADMIN}@{at}", "--amqp-address", f"amqp://{self.hosts}",
        )  # fmt: skip

    def coordinator(self, name: str, quorum: int = QUORUM) -> Post:
        """A coordinator that draws the clients of each version."""
        post = super().coordinator(name, quorum)
        drawn = ["--participation", "0.6", "--deadline-s", "2", "--min-quorum", str(quorum)]
        return replace(post, arguments=[*post.arguments, *drawn])

    def _place(self, name: str) -> str:
        return self.hosts


def kill(stage: WholeCluster, node: str) -> None:
    """As when its machine loses power."""
    stage.cluster.kill(node)


def halt(stage: WholeCluster, node: str) -> None:
    """It does nothing, and its connections stay open."""
    stage.cluster.signal(node, signal.SIGSTOP)


def cut_off(stage: WholeCluster, node: str) -> None:
    """The others cannot reach it; those who talk to it can."""
    stage.cluster.cut_off(node)


def isolate(stage: WholeCluster, node: str) -> None:
    """Nobody can reach it."""
    stage.cluster.isolate(node)


def restart(stage: WholeCluster, node: str) -> None:
    """It is stopped as an administrator would."""
    stage.cluster.signal(node, signal.SIGTERM)
    stage.cluster.kill(node, within_s=30.0)


LOSSES: Final[tuple[Callable[[WholeCluster, str], None], ...]] = (
    kill, halt, cut_off, isolate, restart,
)  # fmt: skip


def lose(stage: WholeCluster, fault: Callable[[WholeCluster, str], None], node: str) -> float:
    """Lose ``node``; return seconds until ROUNDS more versions were out, and mend it.

    Raises Stuck if that takes WITHIN_S, or the node does not come back.
    """
    before, began = stage.crew.version, time.monotonic()
    fault(stage, node)
    went_on = stage.until(lambda: stage.crew.version >= before + ROUNDS, WITHIN_S)
    taken = time.monotonic() - began
    stage.cluster.hint()
    if not went_on:
        raise Stuck(f"{fault.__name__} of {node}: version {stage.crew.version} for {WITHIN_S} s")
    return taken


def lose_majority(stage: WholeCluster, fault: Callable[[WholeCluster, str], None]) -> None:
    """Lose two nodes for a while."""
    for node in stage.random.sample(NODES, 2):
        fault(stage, node)
    stage.pause(MAJORITY_S)
    stage.cluster.hint()


def run(
    cluster: Cluster, folder: Path, faults: int, minutes: float, seed: int, told: Any = print
) -> dict[str, Any]:
    """Harm ``cluster`` so often, ``minutes`` at most; return the report."""
    stage = WholeCluster(cluster, folder, seed)
    counted: Counter[str] = Counter()
    seconds: dict[str, list[float]] = defaultdict(list)
    stuck: list[str] = []
    try:
        stage.prepare_broker()
        for number in range(len(CLIENTS)):
            stage.client(number)
        for name in ("coordinator-a", "coordinator-b"):
            stage.start(name)
        stage.wait_for_progress()
        end = time.monotonic() + 60 * minutes
        for number in range(1, faults + 1):
            if time.monotonic() > end:
                break
            fault = stage.random.choice(LOSSES)
            try:
                if number % EVERY == 0:
                    fault = stage.random.choice((kill, halt, cut_off))
                    lose_majority(stage, fault)
                    counted[f"majority: {fault.__name__}"] += 1
                else:
                    leader = cluster.leader(VHOST, "update")
                    node = stage.random.choice(NODES)
                    role = "leader" if node == leader else "follower"
                    seconds[fault.__name__].append(lose(stage, fault, node))
                    counted[f"{role}: {fault.__name__}"] += 1
                stage.wait_for_progress(1)
            except (Stuck, AssertionError) as error:
                stuck.append(f"fault {number}: {error}")
                cluster.hint()
                if not stage.until(lambda: time.monotonic() < stage.crew.last_news + 5, STUCK_S):
                    break
            told(f"{number} {fault.__name__} version {stage.crew.version} {stuck}")
        reckoning = settle(stage, stuck)
    finally:
        stage.close()
    return {
        "seed": seed,
        "partitions": cluster.partitions,
        "faults": dict(sorted(counted.items())),
        "faults_total": counted.total(),
        "seconds_until_two_rounds": {
            name: {"median": sorted(all_)[len(all_) // 2], "most": max(all_), "times": len(all_)}
            for name, all_ in sorted(seconds.items())
        },
        **asdict(reckoning),
        "is_exact": reckoning.is_exact,
        "stuck": stuck,
        "tracebacks": stage.crew.tracebacks(),
        "unexpected_ends": stage.crew.unexpected,
        "restarts": dict(stage.crew.ends),
        "cpus": os.cpu_count(),
    }
