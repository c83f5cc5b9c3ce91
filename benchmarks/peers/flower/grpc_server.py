"""Flower's older server, which holds a gRPC stream to every client."""

from flwr.common import Parameters, Scalar, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerConfig, start_server
from flwr.server.strategy import FedAvg

from benchmarks.harness.arrays import flat
from benchmarks.peers.flower.setting import Rounds, Setting


class TimedFedAvg(FedAvg):
    """Plain FedAvg; the call that would evaluate a new model tells that its round has ended."""

    def __init__(self, rounds: Rounds) -> None:
        count = rounds.setting.clients
        super().__init__(
            fraction_evaluate=0.0,
            min_fit_clients=count,
            min_available_clients=count,
            initial_parameters=ndarrays_to_parameters([rounds.first_model]),
        )
        self.rounds = rounds
        self.last_model: Parameters | None = None

    def evaluate(
        self, server_round: int, parameters: Parameters
    ) -> tuple[float, dict[str, Scalar]] | None:
        """Evaluate nothing."""
        if server_round > 0:  # 0 is before the first round
            self.rounds.end()
        self.last_model = parameters
        return None

    def tell(self) -> None:
        """Tell the figures of the rounds, which are over."""
        if self.last_model is not None:
            [model] = parameters_to_ndarrays(self.last_model)
            self.rounds.tell(model)


def main() -> None:
    """Serve the inherited setting's rounds."""
    setting = Setting.inherited()
    strategy = TimedFedAvg(Rounds(setting, flat(0, setting.size_bytes)))
    config = ServerConfig(num_rounds=setting.rounds)
    start_server(server_address=setting.address, config=config, strategy=strategy)
    strategy.tell()


if __name__ == "__main__":
    main()
