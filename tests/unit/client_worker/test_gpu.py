"""Graphics cards: chosen before a framework looks, and not silently done without."""

import os

import pytest

from client_worker import gpu
from client_worker.settings import ClientSettings
from warren_shared.errors import ConfigError


@pytest.fixture(autouse=True)
def no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "WARREN_GPU_WANTED", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)


def test_cards_are_chosen_for_every_framework() -> None:
    gpu.choose("1,3")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    gpu.check_seen(2, "TensorFlow")
    with pytest.raises(ConfigError, match="TensorFlow sees 1 card here"):
        gpu.check_seen(1, "TensorFlow")
    with pytest.raises(ConfigError, match="sees no cards"):
        gpu.check_seen(0, "TensorFlow")


def test_none_hides_all_and_silence_changes_nothing() -> None:
    gpu.choose(None)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    gpu.check_seen(0, "TensorFlow")
    gpu.choose("none")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    gpu.check_seen(0, "TensorFlow")


@pytest.mark.parametrize("words", ["", "x", "-1", "1,", "0 1", "1;2"])
def test_what_names_no_cards_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="--gpu"):
        ClientSettings(task="a:b", broker_url="amqp://alfa:x@h/f", gpu=words)


def test_a_number_is_taken() -> None:
    told = ClientSettings(task="a:b", broker_url="amqp://alfa:x@h/f", gpu="2")
    assert told.gpu == "2"
