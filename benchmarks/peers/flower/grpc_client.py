"""A client of Flower's older server: ``python -m benchmarks.peers.flower.grpc_client NUMBER``."""

import sys

from flwr.client import NumPyClient, start_client
from flwr.common import NDArrays, Scalar

from benchmarks.peers.flower.setting import Setting, train


class Trainer(NumPyClient):
    """Number ``client`` of the federation."""

    def __init__(self, client: int) -> None:
        self.client = client

    def fit(
        self, parameters: NDArrays, _config: dict[str, Scalar]
    ) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Train, on one example."""
        [model] = parameters
        return [train(model, self.client)], 1, {}


if __name__ == "__main__":
    start_client(
        server_address=Setting.inherited().address, client=Trainer(int(sys.argv[1])).to_client()
    )
