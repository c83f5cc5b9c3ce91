import gzip
import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from client_worker import FederatedClient, partition
from client_worker.models import softmax_regression
from experiments.biased import CLIENTS, by_participation, newest_of_each
from experiments.data import HOSPITALS, fashion_mnist
from experiments.features import FEATURES, oriented_gradients
from experiments.fedavg_rounds import rounds_to
from experiments.flight import DELAYS, Flight, History, order_statistic
from experiments.private import SHORT, attacked
from experiments.private_runs import CLASSES, Stage, Way, in_flight, in_rounds
from experiments.robust import alie
from warren_shared.tensors.update import Update

EXPERIMENTS = (
    "fedavg_rounds",
    "asynchronous",
    "biased",
    "optimizers",
    "robust",
    "hospitals",
    "hospitals_private",
    "pooled",
    "compression",
    "private",
    "privacy_audit",
    "inversion",
    "frameworks",
    "trees",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the real data sets' form: ten kinds of image, and a question that is linear."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    patterns = rng.integers(0, 200, (10, 784))
    (folder / "fashion-mnist").mkdir()
    for name, count in (("train", 20_000), ("t10k", 800)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        pixels = (patterns[labels] + rng.integers(0, 55, (count, 784))).astype(np.uint8)
        for kind, magic, header, array in (("images-idx3", 2051, 16, pixels),
                                           ("labels-idx1", 2049, 8, labels)):  # fmt: skip
            path = folder / "fashion-mnist" / f"{name}-{kind}-ubyte.gz"
            head = magic.to_bytes(4, "big") + bytes(header - 4)
            path.write_bytes(gzip.compress(head + array.tobytes(), 1))
    write_tables(folder, rng)
    return folder


def write_tables(folder: Path, rng: np.random.Generator) -> None:
    (folder / "credit-default").mkdir()
    names = [
        "ID",
        "LIMIT_BAL",
        "SEX",
        "EDUCATION",
        *(f"X{place}" for place in range(20)),
        "default",
    ]
    values = rng.normal(size=(600, 25))
    values[:, 3] = rng.integers(1, 4, 600)
    values[:, 24] = values[:, 5] + 0.3 * rng.normal(size=600) > 0
    rows = [",".join(map(str, row)) for row in values]
    (folder / "credit-default" / "UCI_Credit_Card.csv").write_text(
        "\n".join([",".join(names), *rows])
    )
    (folder / "heart-disease-4hospitals").mkdir()
    for hospital in HOSPITALS:
        patients = rng.normal(size=(60, 14)).round(3)
        patients[:, 13] = patients[:, 0] > 0
        lines = [",".join([*map(str, row[:10]), "?", "?", "?", str(row[13])]) for row in patients]
        path = folder / "heart-disease-4hospitals" / f"processed.{hospital}.data"
        path.write_text("\n".join(lines))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_leaves_a_table_the_figures_and_a_picture(
    name: str, data: Path, tmp_path: Path
) -> None:
    main = import_module(f"experiments.{name}").main
    assert main(["--data", str(data), "--short", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / f"{name}.json").read_text())
    for table in record["tables"]:
        assert table["rows"]
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
        for row in table["rows"]:
            assert str(row[0]) in (tmp_path / f"{name}.md").read_text()
    assert record["reached"]
    assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")


def test_missing_data_is_one_line_that_says_where_it_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = import_module("experiments.robust").main
    assert main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "train-images" in said
    assert "Fashion-MNIST" in said


def test_a_label_file_in_the_place_of_the_images_is_refused(data: Path, tmp_path: Path) -> None:
    from warren_shared.errors import ConfigError

    wrong = tmp_path / "fashion-mnist"
    wrong.mkdir()
    labels = (data / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes()
    (wrong / "train-images-idx3-ubyte.gz").write_bytes(labels)
    with pytest.raises(ConfigError, match="2051"):
        fashion_mnist(tmp_path, 10, 10)


@pytest.mark.parametrize("kind", ["iid", "shards", "dirichlet"])
def test_every_example_is_somebody_s_and_nobody_else_s(kind: str) -> None:
    labels = np.random.default_rng(1).integers(0, 10, 2000)
    parts = {
        "iid": lambda: partition.iid(2000, 20, 5),
        "shards": lambda: partition.shards(labels, 20, 2, 5),
        "dirichlet": lambda: partition.dirichlet(labels, 20, 0.1, 5),
    }[kind]()
    assert sorted(np.concatenate(parts).tolist()) == list(range(2000))
    assert min(map(len, parts)) >= 10


def test_trips_end_in_the_order_of_their_delays_and_the_clock_is_theirs() -> None:
    flight, update = Flight(), Update([np.zeros(1)], 1)
    for client, delay in enumerate((3.0, 1.0, 2.0)):
        flight.start(client, delay, 0, update)
    assert flight.land().client == 1
    flight.start(9, 0.5, 1, update)
    assert [flight.land().client for _ in range(3)] == [9, 2, 0]
    assert flight.now == 3.0


def test_a_target_is_reached_by_a_mean_and_not_by_one_lucky_evaluation() -> None:
    history = History([1, 2, 3, 4, 5], [0] * 5, [0] * 5, [0.1, 0.9, 0.1, 0.6, 0.6])
    assert history.reaches(0.5) == 3
    assert history.reaches(0.95) is None


def test_waiting_for_all_takes_longer_than_for_most() -> None:
    rng = np.random.default_rng(0)
    for draw in DELAYS.values():
        most, everyone = (order_statistic(draw, rng, 30, count, (50,)) for count in (23, 30))
        assert np.median(most) < np.median(everyone)


def test_rounds_to_a_target_are_interpolated_on_the_best_so_far() -> None:
    assert rounds_to(([1.0, 2.0, 3.0], [0.4, 0.2, 0.6]), 0.5) == pytest.approx(2.5)
    assert rounds_to(([1.0], [0.4]), 0.5) is None


def test_by_participation_every_client_counts_as_much_in_the_end() -> None:
    weigh, moved = by_participation(), np.zeros(2)
    update = Update([np.zeros(1)], 1)
    for number in range(11_000):
        rare = number % 11 == 0
        trip = SimpleNamespace(client=int(rare), version=0, update=update)
        moved[int(rare)] += weigh(0, trip)[1]
    assert moved[0] == pytest.approx(moved[1], rel=0.05)


def test_the_newest_of_each_is_the_mean_over_clients_however_often_they_come() -> None:
    weigh = newest_of_each(calibrated=False)
    for client, value in ((0, 1.0), (0, 7.0), (1, 30.0)):
        update = Update([np.array([value])], 1)
        last, _ = weigh(0, SimpleNamespace(client=client, version=0, update=update))
    assert last.delta[0][0] == pytest.approx((7.0 + 30.0) / CLIENTS)


def test_alie_stays_a_quarter_of_a_deviation_from_the_mean() -> None:
    honest = np.random.default_rng(2).normal(size=(20, 5)).astype(np.float32)
    sent = alie(honest, np.zeros((5, 5), np.float32))
    away = (honest.mean(axis=0) - sent[0]) / honest.std(axis=0)
    np.testing.assert_allclose(away, 0.2533, atol=1e-3)


def test_the_features_of_an_image_say_where_its_edges_are_and_how_they_lie() -> None:
    image = np.zeros((28, 28), np.float32)
    image[:, 14:] = 1.0  # an edge from top to bottom: its gradient has direction 0
    found = oriented_gradients(np.stack([image, image.T]).reshape(2, -1)).reshape(2, 7, 7, 9)
    assert found.shape[1] * found.shape[2] * found.shape[3] == FEATURES
    assert found[0, 3, 3, :8].argmax() == 0
    assert found[1, 3, 3, :8].argmax() == 4, "a quarter of a turn is half of eight directions"
    assert not found[0, 3, 0].any(), "to the left there is nothing"
    np.testing.assert_allclose(found[0, :, 6, 8], 2.0)  # brightness


@pytest.fixture(scope="module")
def stage(data: Path) -> Stage:
    return Stage.both(data, SHORT)[1]


def test_clients_that_learn_at_once_learn_what_each_would_by_itself(stage: Stage) -> None:
    rng = np.random.default_rng(0)
    start = [rng.normal(0, 0.1, (FEATURES, CLASSES)).astype(np.float32),
             rng.normal(0, 0.1, CLASSES).astype(np.float32)]  # fmt: skip
    model = softmax_regression(FEATURES, CLASSES, epochs=4, batch_size=SHORT.images)
    for client, update in zip((3, 7), stage.train(start, [3, 7], 4), strict=True):
        alone = FederatedClient(model, (stage.x[client], stage.y[client]), 1.0)
        wanted = alone.train([array.astype(np.float64) for array in start])
        for mine, its in zip(update.delta, wanted.delta, strict=True):
            np.testing.assert_allclose(mine, its, atol=2e-5)


@pytest.mark.parametrize("knows", [True, False], ids=["who know", "who come at once"])
def test_no_client_is_in_more_rounds_or_sooner_again_than_was_promised(
    stage: Stage, knows: bool
) -> None:
    found = in_flight(stage, Way(8, is_late=True, knows=knows), 1)
    assert len(found.times) > SHORT.rounds / 2
    assert found.most == SHORT.contributions
    assert found.nearest >= SHORT.spaced
    assert sum(map(len, found.entered.values())) == len(found.times) * SHORT.quorum
    assert bool(found.refused["early"]) is not knows


def test_private_rounds_differ_by_their_noise_alone_and_an_attack_sees_less_of_them(
    stage: Stage,
) -> None:
    first, again, other = (in_rounds(stage, Way(8), stream) for stream in (1, 1, 2))
    np.testing.assert_array_equal(first.changes, again.changes)
    assert (first.changes[0] != other.changes[0]).mean() > 0.99
    hidden, open_to_all = (attacked(stage, Way(epsilon), 1) for epsilon in (0.1, 50))
    assert hidden < 0.65
    assert open_to_all > 0.75
