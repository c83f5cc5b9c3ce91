"""What a node does that is cut off from the others for longer than their net tick, and comes back.

Each case leaves a federation that goes on, and a reckoning (`tests.chaos.ledger`) that is exact.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.chaos.ledger import Reckoning
from tests.chaos.run import settle
from tests.chaos.stage import Stuck
from tests.cluster.nodes import TICK_S, Cluster
from tests.cluster.stage import ClusterStage

CUT_S: Final = 1.25 * TICK_S + 3
AGAIN_S: Final = 8.0  # until the leader sees the node again
WAIT_S: Final = 30.0


def redelivery(cluster: Cluster, folder: Path) -> ClusterStage:
    """The coordinator's node: what is unacknowledged comes again over the same channel.

    Then the coordinator is killed. Acknowledged by then, and in no checkpoint, it would be gone.
    """
    # Models reach the mailboxes, which are at the same node; else only `pause_minority` would do.
    stage = ClusterStage(cluster, folder, "node-2", updates_at="node-1")
    stage.prepare_broker()
    stage.start("coordinator-a")
    for number in range(3):
        stage.client(number)
    _wait(stage, lambda: stage.heard("coordinator-a", "update_accepted") == 3, "three updates")
    cluster.cut_off("node-2")
    stage.pause(CUT_S)
    cluster.heal()
    stage.pause(AGAIN_S)
    stage.crew.send("coordinator-a", signal.SIGKILL)
    stage.client(3)  # the last that the quorum needs
    return stage


def two_coordinators(cluster: Cluster, folder: Path) -> ClusterStage:
    """The active coordinator's node: the other one is active now, and nobody tells the first."""
    stage = ClusterStage(cluster, folder, "node-1", coordinator_a="node-2")
    stage.prepare_broker()
    stage.start("coordinator-a")
    for number in range(5):
        stage.client(number)
    stage.wait_for_progress(1)
    stage.start("coordinator-b")
    stage.wait_for_progress(2)
    cluster.cut_off("node-2")
    stage.pause(CUT_S)
    cluster.heal()
    return stage


def no_confirm(cluster: Cluster, folder: Path) -> ClusterStage:
    """The clients' node: what was being published is never confirmed.

    With `ignore` the nodes' own tables stay apart until one is started anew, and models from the
    other side reach no mailbox here: then the coordinator is on this side too.
    """
    side = "node-1" if cluster.partitions == "ignore" else "node-2"
    stage = ClusterStage(cluster, folder, "node-1", coordinator_a=side)
    stage.prepare_broker()
    for number in range(5):
        stage.client(number)
    stage.start("coordinator-a")
    stage.wait_for_progress(3)
    cluster.cut_off("node-1")
    stage.pause(CUT_S)
    cluster.heal()
    return stage


CASES: Final[dict[str, Callable[[Cluster, Path], ClusterStage]]] = {
    case.__name__: case for case in (redelivery, two_coordinators, no_confirm)
}


def play(name: str, cluster: Cluster, folder: Path) -> tuple[Reckoning, list[str]]:
    """Play a case; return the reckoning, and whatever got stuck."""
    stage = CASES[name](cluster, folder)
    stuck: list[str] = []
    try:
        try:
            stage.wait_for_progress(1)
        except Stuck as error:
            stuck.append(str(error))
        stage.at.clear()  # whoever folds the rest reaches the mailboxes
        return settle(stage, stuck), stuck + stage.crew.unexpected
    finally:
        stage.close()


def _wait(stage: ClusterStage, condition: Callable[[], bool], what: str) -> None:
    assert stage.until(condition, WAIT_S), f"no {what} within {WAIT_S:.0f} s"
