"""A ledger federation on a cluster: who talks to which node is chosen worker by worker."""

import os
from pathlib import Path

from broker_config.declaration.federation import Federation
from tests.chaos.crew import Crew
from tests.chaos.stage import CLIENTS, HEARTBEAT_S, Plan, Stage
from tests.cluster.nodes import ADMIN, SITE, Cluster
from tests.support.processes import ROOT

VHOST = "chaos"


class ClusterStage(Stage):
    """A federation on ``cluster``: the mailboxes at ``home_node``, `update` led by ``updates_at``.

    Workers that ``at`` does not name talk to ``home_node``.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, home_node: str, updates_at: str = "", **at: str
    ) -> None:
        self.cluster, self.home_node = cluster, home_node
        self.updates_at = updates_at or home_node
        self.at = {name.replace("_", "-"): node for name, node in at.items()}
        self.plan, self.folder = Plan(0.0, 0), folder
        self.checkpoints = folder / "checkpoint"
        self.checkpoints.mkdir(parents=True)
        self.home = cluster.machines[SITE].folder / "home"
        self.federation = Federation(VHOST, clients=CLIENTS, fleets=())
        self.crew = Crew(folder, cluster.inside)
        self.wires = {}
        self._clock = folder / "clock"
        self.shift_clock(0.0)

    def prepare_broker(self) -> None:
        """Declare the federation anew, where ``home_node`` is."""
        self.cluster.ask("DELETE", f"vhosts/{VHOST}", node=self.home_node)
        clients = [word for name in CLIENTS for word in ("--client", name)]
        # A queue is led by the node at which it is declared.
        for node, words in ((self.updates_at, clients[:2]), (self.home_node, clients)):
            address = self.cluster.machines[node].address
            self.cluster.broker_config(
                "apply", "--home", str(self.home), "--federation", VHOST, *words,
                "--management-url", f"http://{ADMIN}@{address}:15672",
            )  # fmt: skip

    def client(self, number: int) -> None:
        """Start a client."""
        self.crew.add(self._client(CLIENTS[number]))

    def start(self, coordinator: str) -> None:
        """Start a coordinator."""
        self.crew.add(self.coordinator(coordinator))

    def heard(self, name: str, action: str) -> int:
        """How often a worker has logged ``action``."""
        return sum(record["action"] == action for record in self.crew.records(name))

    def _environment(self, name: str) -> dict[str, str]:
        user = "coordinator" if name.startswith("coordinator") else name
        bundle = (self.home / "bundles" / f"{user}.env").read_text().splitlines()
        given = dict(line.split("=", 1) for line in bundle if "=" in line and line[0] != "#")
        given = {name: value.strip("'\"") for name, value in given.items()}
        before, _, after = given["WARREN_BROKER_URL"].rpartition("@")
        _, _, vhost = after.partition("/")
        place = self._place(name)
        given["WARREN_BROKER_URL"] = f"{before}@{place}/{vhost}?heartbeat={HEARTBEAT_S}"
        ours = {"CHAOS_FOLDER": str(self.folder), "CHAOS_CLOCK": str(self._clock)}
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return given | ours | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def _place(self, name: str) -> str:
        return self.cluster.amqp(self.at.get(name, self.home_node))

    def close(self) -> None:
        """End the workers, and leave the cluster whole."""
        self.cluster.heal()
        self.crew.close()
