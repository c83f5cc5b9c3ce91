"""Settings: flags over environment over file, and one line for what is wrong."""

from pathlib import Path

import numpy as np
import pytest

from coordinator_worker.settings import (
    CoordinatorSettings,
    Target,
    parse_config,
    read_initial_model,
)
from shared.errors import ConfigError
from shared.settings import load

URL = "amqp://alfa:s%40crt@127.0.0.1:5672/my%2Ffederation"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARREN_QUORUM", "WARREN_BROKER_URL", "WARREN_ENV_FILE"):
        monkeypatch.delenv(name, raising=False)


def read(*argv: str) -> CoordinatorSettings:
    return load(CoordinatorSettings, description="", argv=list(argv))[0]


def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.env"
    bundle.write_text(f"WARREN_BROKER_URL={URL}\nWARREN_QUORUM=3\n")
    file = ("--env-file", str(bundle))
    assert read(*file).quorum == 3
    monkeypatch.setenv("WARREN_QUORUM", "4")
    assert read(*file).quorum == 4
    assert read(*file, "--quorum", "5").quorum == 5


def test_the_url_names_user_and_federation() -> None:
    found = read("--broker-url", URL)
    assert (found.user, found.federation) == ("alfa", "my/federation")


def test_what_is_missing_is_named_as_flag_and_variable() -> None:
    with pytest.raises(ConfigError, match=r"--broker-url \(or WARREN_BROKER_URL\) is needed"):
        read()


def test_a_wrong_value_is_named_by_its_flag() -> None:
    with pytest.raises(ConfigError, match="--max-staleness: "):
        read("--broker-url", URL, "--max-staleness", "-1")


def test_a_misspelt_flag_is_not_swallowed() -> None:
    with pytest.raises(SystemExit):
        read("--broker-url", URL, "--qorum", "2")


def test_config_words_are_numbers_truths_or_text() -> None:
    words = ("seed=3", "rate=0.5", "deep=true", "name=a=b", "none=")
    assert parse_config(words) == {
        "seed": 3, "rate": 0.5, "deep": True, "name": "a=b", "none": "",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        parse_config(("seed",))


@pytest.mark.parametrize(
    ("text", "metrics", "reached"),
    [
        ("loss<=0.1", {"loss": 0.1}, True),
        ("loss<=0.1", {"loss": 0.2}, False),
        ("eval_auc >= 9e-1", {"eval_auc": 0.95}, True),
        ("eval_auc>=0.9", {"loss": 1.0}, False),
    ],
)
def test_a_target_is_reached_or_not(text: str, metrics: dict[str, float], reached: bool) -> None:
    assert Target.parse(text).reached(metrics) is reached


def test_initial_weights_come_in_the_order_they_were_stored(tmp_path: Path) -> None:
    path = tmp_path / "initial.npz"
    np.savez(path, kernel=np.ones((2, 1), "float32"), bias=np.zeros(1, "float32"))
    found = read_initial_model(path)
    assert [tensor.name for tensor in found.layout.tensors] == ["kernel", "bias"]
    np.testing.assert_array_equal(found[0], np.ones((2, 1)))


def test_a_pickle_is_not_initial_weights(tmp_path: Path) -> None:
    path = tmp_path / "initial.npz"
    np.savez(path, kernel=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ConfigError, match=r"not a readable \.npz"):
        read_initial_model(path)
