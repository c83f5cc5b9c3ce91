"""Flower's simulation, in this process and the workers that Ray starts: a processor for each.

By ``start_simulation``, which took less time a round here than the newer ``run_simulation``.
"""

import sys

from flwr.app import Context
from flwr.client import Client
from flwr.server import ServerConfig
from flwr.simulation import start_simulation

from benchmarks.harness.arrays import flat
from benchmarks.peers.flower.grpc_client import Trainer
from benchmarks.peers.flower.grpc_server import TimedFedAvg
from benchmarks.peers.flower.setting import Rounds, Setting


def client(context: Context) -> Client:
    """The client that a simulated node is."""
    return Trainer(int(context.node_config["partition-id"])).to_client()


def main(ray_folder: str) -> None:
    """Run the inherited setting; Ray keeps its files in ``ray_folder``."""
    setting = Setting.inherited()
    strategy = TimedFedAvg(Rounds(setting, flat(0, setting.size_bytes)))
    start_simulation(
        client_fn=client,
        num_clients=setting.clients,
        # Two for each would let one client train at a time on a machine of 2 cores.
        client_resources={"num_cpus": 1, "num_gpus": 0.0},
        config=ServerConfig(num_rounds=setting.rounds),
        strategy=strategy,
        ray_init_args={
            "_temp_dir": ray_folder,
            "_node_ip_address": "127.0.0.1",
            "include_dashboard": False,
        },
    )
    strategy.tell()


if __name__ == "__main__":
    main(sys.argv[1])
