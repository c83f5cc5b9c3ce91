"""Settings: flags over environment over file, and one line for what is wrong."""

from pathlib import Path

import numpy as np
import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_worker.settings import ClientSettings
from coordinator_worker.rounds.stopping import Target
from coordinator_worker.settings import CoordinatorSettings, parse_config, read_initial_model
from tests.support.bodies import encode
from warren_shared.config.settings import load
from warren_shared.errors import ConfigError
from warren_shared.protocol.codec import decode
from warren_shared.protocol.messages import Notice

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
    with pytest.raises(ConfigError, match="--max-staleness -1: the least is 0"):
        read("--broker-url", URL, "--max-staleness", "-1")


def test_a_misspelt_flag_is_not_swallowed() -> None:
    with pytest.raises(ConfigError, match=r"unknown option --qorum: did you mean --quorum\?$"):
        read("--broker-url", URL, "--qorum", "2")
    with pytest.raises(ConfigError, match="unknown option --zzz: see --help"):
        read("--broker-url", URL, "--zzz")


def test_a_flag_without_its_value_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^--quorum: expected one argument; see --help"):
        read("--broker-url", URL, "--quorum")


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
    found = read_initial_model(path).weights
    assert [tensor.name for tensor in found.layout.tensors] == ["kernel", "bias"]
    np.testing.assert_array_equal(found[0], np.ones((2, 1)))


def test_a_pickle_is_not_initial_weights(tmp_path: Path) -> None:
    path = tmp_path / "initial.npz"
    np.savez(path, kernel=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ConfigError, match=r"not a readable \.npz"):
        read_initial_model(path)


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--quorum", "many"], "--quorum many: write a whole number"),
        (["--quorum", "0"], "--quorum 0: the least is 1"),
        (["--rounds", "1.5"], "--rounds 1.5: write a whole number"),
        (["--log-format", "xml"], "--log-format xml: there are text and json"),
        (["--wait-broker-s", "-1"], "--wait-broker-s -1: the least is 0"),
        (["--broker-url", "amqp://[alfa/x"], "the broker URL is not of the form"),
        (["--env-file", "/no/such/bundle.env"], "bundle.env cannot be read"),
    ],
)
def test_each_wrong_value_is_one_line(argv: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        read("--broker-url", URL, *argv)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_wrong_value_in_the_environment_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARREN_QUORUM", "many")
    with pytest.raises(ConfigError, match="--quorum many: write a whole number"):
        read("--broker-url", URL)


def test_the_bundle_may_be_named_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "alfa.env"
    bundle.write_text(f"WARREN_BROKER_URL={URL}\nUNRELATED=1\n")
    monkeypatch.setenv("WARREN_ENV_FILE", str(bundle))
    assert read().user == "alfa"


@pytest.mark.parametrize("url", ["amqp://a:b@host", "amqp://a:b@host:5672/", "amqp://a:b@host/%2F"])
def test_a_url_without_a_vhost_is_the_brokers_default_vhost(url: str) -> None:
    found = read("--broker-url", url)
    assert found.federation == "/"
    assert pika.URLParameters(url).virtual_host == found.federation


def test_a_url_without_a_user_is_a_guest() -> None:
    assert read("--broker-url", "amqp://host/f").user == "guest"


def test_defaults_are_those_of_synchronous_averaging_of_two() -> None:
    found = read("--broker-url", URL)
    assert (found.quorum, found.max_staleness, found.rounds, found.target) == (2, 0, None, None)
    assert (found.config, found.log_format) == ((), "text")


def test_config_may_be_given_more_than_once() -> None:
    assert read("--broker-url", URL, "--config", "a=1", "--config=b=2").config == ("a=1", "b=2")


def test_what_the_worker_does_not_know_belongs_to_the_task() -> None:
    argv = ["--broker-url", URL, "--task", "m:t", "--data", "x.csv", "--shard=3", "--stay"]
    found, rest = load(ClientSettings, description="", argv=argv, keep_unknown=True)
    assert (found.task, found.stay, found.client, found.fleet) == ("m:t", True, None, None)
    assert rest == ["--data", "x.csv", "--shard=3"]


def test_a_client_reads_its_own_mailbox_and_a_replica_any_of_its_fleets() -> None:
    given_ = {"broker_url": URL, "task": "m:t"}
    assert ClientSettings(**given_).mailboxes() == ("model.alfa",)
    assert ClientSettings(**given_, client="alfa").mailboxes() == ("model.alfa",)
    phone = given_ | {"broker_url": URL.replace("alfa", "phone"), "fleet": "phone"}
    row = ClientSettings(**phone).mailboxes()
    assert row[:2] == ("model.phone.0", "model.phone.1")
    assert len(set(row)) == len(row) == 10_000
    asked = ClientSettings(**phone, client="phone.7")
    assert asked.mailboxes() == ("model.phone.7",)
    assert (asked.place, ClientSettings(**phone).place) == (7, None)
    with pytest.raises(ConfigError, match=r"--client alfa is no place of the fleet phone"):
        ClientSettings(**phone, client="alfa").mailboxes()
    with pytest.raises(ConfigError, match=r"--client bravo: this bundle is that of alfa"):
        ClientSettings(**given_, client="bravo").mailboxes()
    with pytest.raises(ConfigError, match=r"--fleet phone: this bundle is that of alfa"):
        ClientSettings(**given_, fleet="phone").mailboxes()
    with pytest.raises(ConfigError, match="--client Bravo: a client id is lower case"):
        ClientSettings(**given_, client="Bravo").mailboxes()


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1_000", "2024_01", "9" * 30, "x" * 9])
def test_what_is_no_plain_number_stays_text(text: str) -> None:
    assert parse_config((f"name={text}",)) == {"name": text}


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,128}", fullmatch=True), st.text(max_size=1024), max_size=64
    )
)
def test_any_config_that_is_read_can_be_sent_and_is_equal_to_itself(config: dict[str, str]) -> None:
    found = parse_config(tuple(f"{name}={text}" for name, text in config.items()))
    assert decode(encode(Notice(notice="join", config=found)))[0].config == found
    assert set(found) == set(config)


@pytest.mark.parametrize(
    "words", [("x" * 129 + "=1",), ("a=" + "x" * 1025,), tuple(f"n{n}=1" for n in range(65))]
)
def test_a_config_that_no_manifest_can_carry_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="at most 64 settings"):
        parse_config(words)


@pytest.mark.parametrize(
    "text",
    ["", "loss", "loss<0.1", "loss=0.1", "<=0.1", "loss<=", "loss<=low", "loss<=1e", "a<=1 "],
)
def test_a_target_of_another_form_is_told_the_right_one(text: str) -> None:
    with pytest.raises(ConfigError, match="write NAME>=VALUE or NAME<=VALUE"):
        Target.parse(text)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False))
def test_a_target_is_a_bound_of_the_number_it_was_written_with(goal: float, found: float) -> None:
    assert Target.parse(f"m>={goal}").reached({"m": found}) == (found >= goal)
    assert Target.parse(f"m<={goal}").reached({"m": found}) == (found <= goal)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 cut short"])
def test_a_file_of_another_kind_is_not_initial_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "initial.npz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"initial\.npz is not a readable \.npz"):
        read_initial_model(path)


def test_a_single_array_is_not_initial_weights_and_neither_is_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    for path in (tmp_path / "one.npy", tmp_path, tmp_path / "none.npz"):
        with pytest.raises(ConfigError, match=r"not a readable \.npz"):
            read_initial_model(path)


def test_initial_weights_of_integers_are_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", kernel=np.zeros(3), steps=np.zeros(3, int))
    with pytest.raises(ConfigError, match="tensor steps is int64"):
        read_initial_model(tmp_path / "i.npz")
