"""The app that SuperLink and SuperNodes run: plain FedAvg, no evaluation."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.harness.arrays import flat
from benchmarks.peers.flower.setting import Rounds, Setting, train

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def fit(message: Message, context: Context) -> Message:
    """A client's part of a round."""
    [model] = message.content["arrays"].to_numpy_ndarrays()
    update = ArrayRecord([train(model, int(context.node_config["partition-id"]))])
    metrics = MetricRecord({"num-examples": 1})
    return Message(content=RecordDict({"arrays": update, "metrics": metrics}), reply_to=message)


@server_app.main()
def main(grid: Grid, _context: Context) -> None:
    """The server's part of all rounds."""
    setting = Setting.inherited()
    first = flat(0, setting.size_bytes)
    rounds = Rounds(setting, first)

    def ended(number: int, _model: ArrayRecord) -> None:
        if number > 0:  # 0 is before the first round
            rounds.end()

    everyone = {"min_train_nodes": setting.clients, "min_available_nodes": setting.clients}
    strategy = FedAvg(fraction_evaluate=0.0, **everyone)
    result = strategy.start(
        grid, ArrayRecord([first]), num_rounds=setting.rounds, evaluate_fn=ended
    )
    [model] = result.arrays.to_numpy_ndarrays()
    rounds.tell(model)
