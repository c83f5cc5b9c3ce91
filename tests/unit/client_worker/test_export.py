"""`client-worker export` and `evaluate`: a model from any of our formats into any other."""

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from client_worker import KerasTask, Task
from client_worker.cli import main
from tests.tasks import Line
from warren_shared import weights_file
from warren_shared.tensors.layout import Layout, Weights

# TensorFlow's variables, when Keras writes them, speak an older numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> str:
    """The import path of a Keras task that has other weights each time it is made."""
    import keras

    def site() -> KerasTask:
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(4, "relu", name="hidden"),
                keras.layers.Dense(1, name="out"),
            ],
            name="net",
        )
        return KerasTask(model, (X, X[:, :1]), 0.1, loss="mse", validation=(X, X[:, :1]))

    monkeypatch.setattr(sys.modules[__name__], "site", site, raising=False)
    return f"{__name__}:site"


def plain() -> Task:
    return Task(Line(3), (X, X[:, :1]), 0.1)


def network() -> Weights:
    draw = np.random.default_rng(2)
    arrays = [draw.normal(size=s).astype(np.float32) for s in ((3, 4), (4,), (4, 1), (1,))]
    names = ["hidden/kernel", "hidden/bias", "out/kernel", "out/bias"]
    return Weights(Layout.of(arrays, names), Weights.of(arrays).buffer)


def predict(weights: Weights) -> np.ndarray:
    w, b, v, c = weights
    return np.maximum(X @ w + b, 0) @ v + c


def export(task: str, model: Path, to: Path) -> int:
    return main(["export", "--task", task, "--model", str(model), "--to", str(to)])


def test_keras_and_tensorflow_load_what_is_exported_and_predict_the_same(
    tmp_path: Path, task: str
) -> None:
    import keras
    import tensorflow as tf

    weights_file.write(tmp_path / "m.safetensors", network())
    for name in ("m.keras", "saved"):
        assert export(task, tmp_path / "m.safetensors", tmp_path / name) == 0
    wanted = predict(network())
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), wanted, rtol=1e-5, atol=1e-6)
    served = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(served.serve(X).numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.keras", "m.safetensors", "saved"]


def test_a_keras_file_gives_its_weights_back_and_another_models_are_refused(
    tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras

    weights_file.write(tmp_path / "m.npz", network())
    assert export(task, tmp_path / "m.npz", tmp_path / "m.keras") == 0
    assert export(task, tmp_path / "m.keras", tmp_path / "back.safetensors") == 0
    back = weights_file.read(tmp_path / "back.safetensors").weights
    assert back.buffer.tobytes() == network().buffer.tobytes()
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    (tmp_path / "rubbish.keras").write_bytes(b"PK\x03\x04 cut short")
    capsys.readouterr()
    for name, what in (
        ("other", "is of another model: its layer 1 is Dense with activation"),
        ("rubbish", "not a readable"),
    ):
        assert export(task, tmp_path / f"{name}.keras", tmp_path / "x.npz") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert what in line
    assert not (tmp_path / "x.npz").exists()


def test_an_exported_folder_is_replaced_and_any_other_is_left_alone(
    tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights_file.write(tmp_path / "m.npz", network())
    for _ in range(2):
        assert export(task, tmp_path / "m.npz", tmp_path / "saved") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    assert export(task, tmp_path / "m.npz", tmp_path / "mine") == 2
    assert "with other things in it" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_tensors_of_another_program_are_put_in_order_by_the_tasks_names(
    tmp_path: Path, task: str
) -> None:
    names = ["net/hidden/kernel", "net/hidden/bias", "net/out/kernel", "net/out/bias"]
    path = tmp_path / "theirs.safetensors"
    save_file(dict(zip(names, network(), strict=True)), path)  # which sorts them
    assert export(task, path, tmp_path / "ours.npz") == 0
    found = weights_file.read(tmp_path / "ours.npz").weights
    assert [tensor.name for tensor in found.layout.tensors] == names
    assert found.buffer.tobytes() == network().buffer.tobytes()


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_without_a_framework_weights_go_from_one_format_to_the_other(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = Weights.of([np.ones((3, 1)), np.array([0.5])])
    weights_file.write(tmp_path / "m.npz", line)
    to = tmp_path / f"out{ending}"
    assert export(f"{__name__}:plain", tmp_path / "m.npz", to) == 0
    assert weights_file.read(to).weights.buffer.tobytes() == line.buffer.tobytes()
    for name, what in (
        ("m.keras", "none of Keras"),
        ("folder", "none of Keras"),
        ("m.onnx", "name a .npz, .safetensors, .keras, .pt or .joblib"),
    ):
        assert export(f"{__name__}:plain", tmp_path / "m.npz", tmp_path / name) == 2
        assert what in capsys.readouterr().err
    assert export(f"{__name__}:plain", tmp_path / "none.npz", tmp_path / "x.npz") == 2
    assert "is not a readable .npz" in capsys.readouterr().err


def test_evaluate_takes_each_format(
    tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights_file.write(tmp_path / "m.npz", network())
    assert export(task, tmp_path / "m.npz", tmp_path / "m.keras") == 0
    weights_file.write(tmp_path / "m.safetensors", network())
    capsys.readouterr()
    said = set()
    for ending in (".npz", ".safetensors", ".keras"):
        assert main(["evaluate", "--task", task, "--model", str(tmp_path / f"m{ending}")]) == 0
        said.add(capsys.readouterr().out)
    assert len(said) == 1


def test_no_room_is_left_behind_when_it_cannot_be_written(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights_file.write(tmp_path / "m.npz", network())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client_worker.models.keras_model.KerasModel.write_keras", full)
    assert export(task, tmp_path / "m.npz", tmp_path / "m.keras") == 1
    assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]
