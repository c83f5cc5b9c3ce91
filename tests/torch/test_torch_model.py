"""`TorchTask`: what travels, how it is trained, what is refused."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client_worker import ConfigError, FederatedClient, TorchTask, TrainingPlan
from client_worker.cli import main
from client_worker.models.torch_model import TorchModel
from coordinator_worker import FederatedCoordinator
from tests.torch.sites import blobs, network
from warren_shared import weights_file
from warren_shared.protocol.messages import LocalTraining

X, Y = blobs(0)


def task(module: nn.Module | None = None, data: Any = (X, Y), **options: Any) -> TorchTask:
    options = {"loss": nn.CrossEntropyLoss()} | options
    return TorchTask(network() if module is None else module, data, 0.1, **options)


def line(*, bias: bool = True) -> nn.Linear:
    """One linear layer of float64, whose steps can be computed by hand."""
    torch.manual_seed(1)
    return nn.Linear(8, 1, bias=bias).double()


def line_model(module: nn.Module | None = None, **options: Any) -> TorchModel:
    options = {"loss": nn.MSELoss(), "batch_size": len(X), "shuffle": False} | options
    return TorchModel(line() if module is None else module, **options)


NUMBERS = X.double(), X[:, :1].double() * 2 + 1


def gradients(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Of mean((x w' + b - y)^2)."""
    away = 2 * (x @ weights[0].T + weights[1] - y) / len(x)
    return [away.T @ x, away.sum(axis=0)]


# --- what travels ---------------------------------------------------------------------------------


def test_parameters_train_floating_buffers_are_statistics_and_counters_stay() -> None:
    client = task().client()
    roles = dict(zip(client.trainable.weight_names(), client.trainable.weight_roles(), strict=True))
    assert roles["1.running_mean"] == roles["1.running_var"] == "statistic"
    assert roles["1.num_batches_tracked"] == "local"
    assert roles["1.weight"] == roles["0.bias"] == "trainable"
    travelling = {tensor.name: tensor.role for tensor in client.layout.tensors}
    assert "1.num_batches_tracked" not in travelling
    assert travelling["1.running_var"] == "statistic"
    update = client.train(client.weights())
    sent = dict(zip(travelling, update.delta, strict=True))
    mean = client.model.module[1].running_mean.numpy()
    np.testing.assert_array_equal(sent["1.running_mean"], mean)  # the value, not what changed
    assert client.model.module[1].num_batches_tracked == update.local_steps == 3


def test_the_counter_of_batches_goes_on_at_the_site() -> None:
    client = task(batch_size=45).client()
    weights = client.weights()
    for rounds in (1, 2):
        client.train(weights)
        assert client.model.module[1].num_batches_tracked == 2 * rounds


def test_a_tied_weight_travels_once_and_is_trained_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    module = Tied()
    client = task(module, (X, X), loss=nn.MSELoss()).client()
    assert [tensor.name for tensor in client.layout.tensors] == ["a.weight"]
    client.train(client.weights())
    assert module.b.weight is module.a.weight
    assert {"a.weight", "b.weight"} == set(module.state_dict())


def test_what_requires_no_gradient_is_frozen_and_stays_as_it_is() -> None:
    module = network()
    module[0].requires_grad_(False)
    client = task(module, optimizer=functools.partial(torch.optim.SGD, weight_decay=0.1)).client()
    assert client.trainable.weight_roles()[:2] == ["frozen", "frozen"]
    before = module[0].weight.clone()
    only = LocalTraining(exchange="trainable")
    client.train(client.weights(only), only)
    assert torch.equal(module[0].weight, before)
    assert all(not tensor.name.startswith("0.") for tensor in client.layout_for(only).tensors)


def test_a_normalizer_left_in_eval_mode_stays_so_and_its_statistics_are_frozen() -> None:
    module = network()
    module[1].eval()
    client = task(module).client()
    assert client.trainable.weight_roles()[4:6] == ["frozen", "frozen"]
    client.train(client.weights())
    assert module[1].running_mean.abs().max() == 0
    assert module[0].training


def test_a_module_that_is_in_eval_mode_as_a_whole_trains_all_the_same() -> None:
    module = network().eval()
    client = task(module).client()
    client.train(client.weights())
    assert module[1].running_mean.abs().max() > 0


def test_local_finds_a_submodule_by_the_beginning_of_its_tensors_names() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = network(), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x))

    names = [t.name for t in task(Nested(), local=["head"]).client().layout.tensors]
    assert names
    assert all(name.startswith("body.") for name in names)
    kept = [t.name for t in task(Nested(), local=["body.0"]).client().layout.tensors]
    assert "body.0.weight" not in kept
    assert "body.3.weight" in kept
    one = [t.name for t in task(Nested(), local=["head.bias"]).client().layout.tensors]
    assert "head.weight" in one
    assert "head.bias" not in one


def test_a_table_of_integers_stays_and_has_to_be_the_same_everywhere() -> None:
    def made(first: int) -> FederatedClient:
        module = network()
        module.register_buffer("table", torch.arange(first, first + 6).reshape(2, 3))
        return task(module).client()

    client = made(0)
    assert "table" not in [tensor.name for tensor in client.layout.tensors]
    client.check_fixed_state(made(0).fixed_state)
    with pytest.raises(ConfigError, match="integers of table is not the federation's"):
        client.check_fixed_state(made(1).fixed_state)


def half() -> nn.Module:
    return network().bfloat16()


def overlapping() -> nn.Module:
    module = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    module[1].weight = nn.Parameter(module[0].weight.data)
    return module


class Extra(nn.Linear):
    def get_extra_state(self) -> str:
        return "words"

    def set_extra_state(self, state: str) -> None:
        pass


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (half, "call module.float(), and torch.autocast in its forward"),
        (lambda: network().half(), "float16, in which a small update rounds to nothing"),
        (overlapping, "share memory and are two tensors: tie them as one Parameter"),
        (lambda: Extra(8, 3), "no tensor: keep it outside of state_dict()"),
        (lambda: nn.LazyLinear(3), "call the module on a batch before the task is made"),
        (nn.ReLU, "no parameters yet"),
        (lambda: nn.Linear(8, 3, dtype=torch.complex64), "real and imaginary parts"),
    ],
)
def test_what_cannot_be_federated_is_refused(made: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(").replace(")", r"\)")):
        task(made())


def test_a_module_without_a_task_is_told_of_it() -> None:
    with pytest.raises(ConfigError, match="give TorchTask both"):
        FederatedClient(network(), (X, Y), 0.1)


def test_weights_of_another_shape_are_not_spread_out() -> None:
    model = line_model()
    with pytest.raises(ConfigError, match=r"weight has shape \[1, 8\], not \[1, 1\]"):
        model.set_weights([np.zeros((1, 1)), np.zeros(1)])


# --- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"proximal": 0.3},
        {"clip_norm": 0.05},
        {"correction": 0.2},
        {"proximal": 0.3, "clip_norm": 0.05, "correction": 0.2},
    ],
)
def test_steps_are_those_of_the_plan(asked: dict[str, float]) -> None:
    model = line_model()
    weights = model.get_weights()
    anchor = [array + 0.25 for array in weights]
    plan = dict(asked)
    correction = plan.pop("correction", None)
    arrays = None if correction is None else [np.full(w.shape, correction) for w in weights]
    model.fit(NUMBERS, 0.05, TrainingPlan(anchor, correction=arrays, steps=3, **plan))
    x, y = (part.numpy() for part in NUMBERS)
    for _ in range(3):
        found = gradients(weights, x, y)
        norm = np.sqrt(sum(np.vdot(g, g) for g in found))
        scale = min(1.0, asked.get("clip_norm", np.inf) / norm)
        weights = [
            w - 0.05 * (scale * g + asked.get("proximal", 0.0) * (w - a) + (correction or 0.0))
            for w, g, a in zip(weights, found, anchor, strict=True)
        ]
    for ours, wanted in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-12)


def test_steps_and_epochs_are_the_coordinators_before_the_tasks() -> None:
    model = line_model(batch_size=32, epochs=2)
    steps = [
        model.fit(NUMBERS, 0.01, TrainingPlan((), epochs=epochs, steps=steps))["local_steps"]
        for epochs, steps in ((None, None), (3, None), (None, 5), (3, 1))
    ]
    assert steps == [6, 9, 5, 1]


def test_a_parameter_that_the_loss_does_not_use_is_still_drawn_to_the_anchor() -> None:
    module = nn.Sequential(line())
    module.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    model = line_model(module)
    anchor = [np.zeros(array.shape) for array in model.get_weights()]
    model.fit(NUMBERS, 0.1, TrainingPlan(anchor, proximal=0.5, steps=2))
    np.testing.assert_allclose(module.unused.detach(), 0.95**2)


def test_the_optimizer_begins_again_each_round() -> None:
    momentum = functools.partial(torch.optim.SGD, momentum=0.9)
    whole, again = line_model(optimizer=momentum), line_model(optimizer=momentum)
    start = whole.get_weights()
    whole.fit(NUMBERS, 0.01)
    first = whole.get_weights()
    again.fit(NUMBERS, 0.05)
    again.set_weights(start)
    again.fit(NUMBERS, 0.01)
    for a, b in zip(first, again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_control_of_one_step_is_its_gradient_and_needs_plain_sgd() -> None:
    client = task(line(), NUMBERS, loss=nn.MSELoss(), batch_size=len(X)).client()
    local = LocalTraining(scaffold=True)
    start = client.initial(local)
    update = client.train(start, local)
    weights, controls = update.delta[:2], update.delta[2:]
    found = gradients(list(start[:2]), *(part.numpy() for part in NUMBERS))
    for change, control, gradient in zip(weights, controls, found, strict=True):
        np.testing.assert_allclose(control, gradient, rtol=1e-10)
        np.testing.assert_allclose(change, -0.1 * gradient, rtol=1e-10)
    momentum = functools.partial(torch.optim.SGD, momentum=0.9)
    other = task(optimizer=momentum).client()
    start = other.initial(local)
    with pytest.raises(ConfigError, match=r"plain SGD only.*it has momentum"):
        other.train(start, local)


def test_the_loss_is_the_last_epochs_mean_over_examples() -> None:
    model = line_model(batch_size=60)
    told = model.fit(NUMBERS, 1e-12)["loss"]
    mean = nn.MSELoss()(model.module(NUMBERS[0]), NUMBERS[1]).item()
    assert told == pytest.approx(mean)
    once, twice = line_model(), line_model(epochs=2)
    once.fit(NUMBERS, 0.05)
    mean = nn.MSELoss()(once.module(NUMBERS[0]), NUMBERS[1]).item()
    assert twice.fit(NUMBERS, 0.05)["loss"] == pytest.approx(mean)


def test_a_last_batch_of_one_example_is_joined_to_the_one_before_it() -> None:
    client = task(data=(X[:33], Y[:33]), batch_size=16).client()
    assert client.train(client.weights()).local_steps == 2
    plain = TorchModel(nn.Linear(8, 3), loss=nn.CrossEntropyLoss(), batch_size=16)
    assert plain.fit((X[:33], Y[:33]), 0.1)["local_steps"] == 3


def test_datasets_and_loaders_are_trained_on_in_their_batches() -> None:
    dataset = torch.utils.data.TensorDataset(X, Y)
    loader = torch.utils.data.DataLoader(dataset, batch_size=20, drop_last=True)
    for data, examples, steps in ((dataset, 90, 3), (loader, 80, 4)):
        client = task(data=data).client()
        assert client.num_examples == examples
        assert client.train(client.weights()).local_steps == steps


def test_endless_data_end_where_the_task_or_the_coordinator_says() -> None:
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield X[0], Y[0]

    client = task(data=Endless(), num_examples=50, steps_per_epoch=4, epochs=2).client()
    weights = client.weights()
    assert client.train(weights).local_steps == 8
    assert client.train(weights, LocalTraining(steps=3)).local_steps == 3


def test_arrays_of_numpy_are_taken_in_the_modules_dtype() -> None:
    x, y = X.numpy().astype(np.float64), Y.numpy().astype(np.int32)
    client = task(data=(x, y), validation=(x.tolist(), y.tolist())).client()
    assert client.train(client.weights()).evaluation.num_examples == 90


def test_inputs_may_be_a_tuple_or_a_dict_and_a_step_ones_own() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.cat([left, right], dim=1))

    halves = X[:, :4], X[:, 4:]
    for x in (halves, dict(zip(("left", "right"), halves, strict=True))):
        assert (
            task(Two(), (x, Y)).client().train(task(Two(), (x, Y)).client().weights()).local_steps
            == 3
        )

    def step(module: nn.Module, batch: Any) -> torch.Tensor:
        x, y, weight = batch
        losses = nn.functional.cross_entropy(module(x), y, reduction="none")
        return (losses * weight).mean()

    data = torch.utils.data.TensorDataset(X, Y, torch.ones(len(X)))
    client = TorchTask(network(), data, 0.1, step=step, validation=data).client()
    update = client.train(client.weights())
    assert update.metrics["eval_loss"] > 0
    assert update.local_steps == 3


def ignoring(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": ignoring}, "take the parameter lr"),
        ({"optimizer": lambda parameters: torch.optim.SGD(parameters, 0.1)}, "of (parameters, lr)"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS evaluates the loss several times"),
        ({"optimizer": torch.optim.SGD(network().parameters(), 0.1)}, "give the optimizer's class"),
        ({"optimizer": "adam"}, "give a class such as torch.optim.Adam"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "that of a mean over a batch"),
        ({"loss": nn.CrossEntropyLoss}, "give a function of (output, y)"),
        ({"loss": None}, "give loss="),
        ({"data": (X, Y + 1)}, "such as 3: CrossEntropyLoss takes whole numbers from 0 to 2"),
        ({"data": (X, Y.double())}, "convert them with y.long()"),
        ({"data": (X, X[:, :2]), "loss": nn.MSELoss()}, "give a label for each output"),
        ({"data": (X[:1], Y[:1])}, "needs more than one example in each batch"),
        ({"data": (X, Y, Y)}, "sample weights need a Dataset"),
        ({"data": iter([(X, Y)]), "num_examples": 90}, "used up after one round"),
        ({"epochs": 0}, "epochs=0"),
        ({"epoch": 2}, "did you mean epochs"),
        ({"scheduler": None}, "--learning-rate-schedule"),
        ({"record_privacy": "epsilon=1"}, "no gradients of single records"),
    ],
)
def test_what_would_go_wrong_is_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    def trained() -> None:
        client = task(**options).client()
        client.train(client.weights())

    with pytest.raises(ConfigError) as told:
        trained()
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_a_column_of_outputs_is_not_spread_out_over_a_row_of_labels() -> None:
    flat = NUMBERS[0], NUMBERS[1][:, 0]
    a, b = line_model(), line_model()
    a.fit(flat, 0.05)
    b.fit(NUMBERS, 0.05)
    np.testing.assert_array_equal(a.get_weights()[0], b.get_weights()[0])

    def own_loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(output, y)

    own = line_model(loss=own_loss)
    with pytest.raises(ConfigError, match="spread labels out"):
        own.fit(flat, 0.05)


def test_a_parameter_that_is_frozen_afterwards_is_noticed() -> None:
    made = task()
    client = made.client()
    made.model.module[0].requires_grad_(False)
    with pytest.raises(ConfigError, match=r"requires_grad of 0\.weight was changed"):
        client.train(client.weights())


# --- evaluation -----------------------------------------------------------------------------------


def test_a_classifier_is_counted_and_its_loss_is_the_mean_of_all() -> None:
    model = TorchModel(network(), loss=nn.CrossEntropyLoss(), batch_size=8)
    x, y = blobs(5, 2500)  # several batches
    found = model.evaluate((x, y))
    model.module.eval()
    output = model.module(x)
    assert found.num_examples == 2500
    assert found.means["loss"] == pytest.approx(nn.CrossEntropyLoss()(output, y).item(), rel=1e-5)
    right = float((output.argmax(dim=1) == y).double().mean())
    assert found.metrics()["accuracy"] == pytest.approx(right)
    assert np.array(found.confusion).shape == (3, 3)


@pytest.mark.parametrize("logits", [True, False])
def test_a_binary_classifier_has_an_auc(logits: bool) -> None:
    layers = [nn.Linear(8, 1)] + ([] if logits else [nn.Sigmoid()])
    model = TorchModel(
        nn.Sequential(*layers), loss=nn.BCEWithLogitsLoss() if logits else nn.BCELoss()
    )
    data = X, (X[:, 0] > 0).long()
    for _ in range(20):
        model.fit(data, 0.5)
    figures = model.evaluate(data).metrics()
    assert figures["auc"] > 0.95
    assert figures["accuracy"] > 0.85
    with pytest.raises(ConfigError, match="takes 0 to 1"):
        model.fit((X, data[1] * 2 - 1), 0.5)


def test_ignored_and_weighted_classes_count_as_the_loss_counts_them() -> None:
    loss = nn.CrossEntropyLoss(ignore_index=1, weight=torch.tensor([1.0, 5.0, 3.0]))
    model = TorchModel(network(), loss=loss)
    x, y = blobs(6, 2500)
    found = model.evaluate((x, y))
    model.module.eval()
    assert found.means["loss"] == pytest.approx(loss(model.module(x), y).item(), rel=1e-5)
    assert found.num_examples == int((y != 1).sum())


def test_evaluation_changes_nothing() -> None:
    model = TorchModel(network(), loss=nn.CrossEntropyLoss(), metrics={"top": lambda o, y: o.max()})
    before = model.get_weights()
    assert "top" in model.evaluate((X, Y)).means
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_evaluation_of_ones_own_takes_its_place() -> None:
    client = task(validation=(X, Y), evaluate=lambda module, data: {"rows": len(data[0])}).client()
    assert client.evaluate() == {"rows": 90.0}


# --- a federation, and files ----------------------------------------------------------------------


def test_four_sites_learn_together() -> None:
    clients = [task(data=blobs(n), validation=blobs(n + 10)).client() for n in range(4)]
    coordinator = FederatedCoordinator([clients[0].model])
    found = []
    for _ in range(12):
        updates = [client.train(coordinator.weights) for client in clients]
        found.append(updates[0].metrics["eval_accuracy"])
        coordinator.send(coordinator.aggregate(updates))
    assert found[-1] > 0.9 > found[0]


def test_a_state_dict_is_written_and_read_again(tmp_path: Path, capsys: Any) -> None:
    weights = task().client().weights()
    for array in weights:
        array += 0.5
    weights_file.write(tmp_path / "m.safetensors", weights, {})
    words = ["--task", "tests.torch.sites:site", "--to"]
    model = ["--model", str(tmp_path / "m.safetensors")]
    assert main(["export", *words, str(tmp_path / "m.pt"), *model]) == 0
    module = network()
    module.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    torch.testing.assert_close(module[3].bias, network()[3].bias + 0.5)
    back = ["--model", str(tmp_path / "m.pt")]
    assert main(["export", *words, str(tmp_path / "back.npz"), *back]) == 0
    found = weights_file.read(tmp_path / "back.npz", "back", like=weights.layout).weights
    np.testing.assert_array_equal(found.buffer, weights.buffer)
    capsys.readouterr()
    for content, said in (
        ({"0.weight": torch.zeros(1)}, "of another module: only one of them has"),
        ({**module.state_dict(), "3.bias": torch.zeros(4)}, "3.bias has another shape"),
        (task, "not a readable state_dict"),  # a pickle that names code
    ):
        torch.save(content, tmp_path / "other.pt")
        other = ["--model", str(tmp_path / "other.pt")]
        assert main(["export", *words, str(tmp_path / "x.npz"), *other]) == 2
        assert said in capsys.readouterr().err
    assert main(["export", *words, str(tmp_path / "m.keras"), *model]) == 2
    assert "none of Keras" in capsys.readouterr().err
