"""The table of mistakes in docs/bring-your-own.md: each is made, and its line is what is said."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from client_worker import FederatedClient, KerasTask, NumpyModel, Task
from client_worker.tasks.task import TaskSource
from tests.support import documents
from warren_shared.errors import ConfigError

TABLE = documents.text_of("docs/bring-your-own.md").partition("## When it does not work")[2]
ROWS = dict(re.findall(r"^\| ([^|`]+) \| `([^`]+)` \|$", TABLE, re.MULTILINE))
DATA = (np.ones((4, 3), "float32"), np.ones(4, "float32"))
TASKS = """
from client_worker import Task
from client_worker.models import linear_regression
import numpy as np

def site(shard: int = 0): return Task(linear_regression(1), (np.ones((2, 1)), np.ones(2)))
def needs_data(data: str): return open(data)
def forgot(): return site(), None
"""


def made(path: str, *words: str) -> object:
    source = TaskSource(path, list(words))
    return source.make(source.arguments({}))


def network() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="head")])


def plain(width: int) -> FederatedClient:
    model = NumpyModel([np.zeros(width)], lambda weights, x, y: (0.0, [np.zeros(width)]))
    return FederatedClient(model, DATA, 0.1)


MISTAKES: dict[str, Callable[[], object]] = {
    "the file instead of the import path": lambda: made("my_task.py"),
    "started in another folder": lambda: made("my_tsak:site"),
    "a misspelt flag": lambda: made("my_task:site", "--shrad", "0"),
    "a value of another type": lambda: made("my_task:site", "--shard", "one"),
    "a missing argument": lambda: made("my_task:needs_data"),
    "a missing file": lambda: made("my_task:needs_data", "--data", "gone.csv"),
    "another type is returned": lambda: made("my_task:forgot"),
    "a missing method": lambda: Task(Whole(), DATA).client(),
    "no loss": lambda: KerasTask(network(), DATA).client(),
    "no such layer": lambda: KerasTask(network(), DATA, loss="mse", local=["tail"]).client(),
    "no examples": lambda: FederatedClient(plain(3).model, (np.ones((0, 3)), np.ones(0)), 0.1),
    "arrays of different lengths": lambda: FederatedClient(
        plain(3).model, (np.ones((2, 3)), np.ones(3)), 0.1
    ),
    "labels that the loss does not accept": lambda: KerasTask(
        network(), (DATA[0], 2 * np.ones(len(DATA[1]))), loss="binary_crossentropy"
    ),
    "an endless data set": lambda: FederatedClient(plain(3).model, endless(), 0.1),
    "a generator as data": lambda: FederatedClient(plain(3).model, (x for x in DATA), 0.1),
    "only integers as weights": lambda: FederatedClient(Whole(3), DATA, 0.1),
    "a different model than the other clients'": lambda: plain(3).train([np.zeros(4)]),
}


def endless() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(DATA).batch(2).repeat()


class Whole:
    """A model of whole numbers; without any, one that has half of its methods."""

    def __init__(self, *shape: int) -> None:
        self.get_weights = lambda: [np.zeros(shape, "int64")]
        if shape:
            self.set_weights = self.fit = lambda *_: None


@pytest.fixture(autouse=True)
def task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_task.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "my_task", raising=False)


def test_every_mistake_of_the_table_is_made_here() -> None:
    assert list(ROWS) == list(MISTAKES)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_line_of_the_table_is_what_is_said(mistake: str) -> None:
    with pytest.raises(ConfigError) as error:
        MISTAKES[mistake]()
    assert ROWS[mistake] in str(error.value)
