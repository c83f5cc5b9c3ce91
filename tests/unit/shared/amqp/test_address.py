"""What a broker URL means."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import exceptions

from warren_shared.amqp.address import HEARTBEAT_S, diagnose, parameters
from warren_shared.amqp.broker_url import BrokerUrl
from warren_shared.config.settings import WorkerSettings, load
from warren_shared.errors import BrokerRefused, BrokerUnavailable, ConfigError

_CUT = exceptions.StreamLostError("Transport indicated EOF")
_BOOTS = exceptions.ConnectionClosedByBroker(541, "INTERNAL_ERROR - vhost 'f' is down")
_CLOSED = exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED - vhost f not found")
_GUESSES = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)


def test_the_heartbeat_is_the_urls_or_else_ours() -> None:
    assert parameters("amqp://alfa:x@localhost/f", "test")[0].heartbeat == HEARTBEAT_S
    assert parameters("amqp://alfa:x@localhost/f?heartbeat=4", "test")[0].heartbeat == 4


@pytest.mark.parametrize("guess", _GUESSES)
@pytest.mark.parametrize("cause", [_CUT, _BOOTS])
def test_a_broker_that_boots_or_is_killed_while_it_lets_us_in_has_not_refused(
    guess: type[exceptions.AMQPConnectionError], cause: Exception
) -> None:
    error, final = diagnose(guess(repr(cause)), "b")
    assert isinstance(error, BrokerUnavailable)
    assert not final


@pytest.mark.parametrize("guess", _GUESSES)
def test_a_broker_that_says_why_has_refused(guess: type[exceptions.AMQPConnectionError]) -> None:
    error, final = diagnose(guess(repr(_CLOSED)), "b")
    assert isinstance(error, BrokerRefused)
    assert final


ODD = [
    "pa/ss", "pa?ss", "pa#ss", "p@ss", "p@s/s", "p:a:ss", "[pass", "pa]ss", "100%", "%zz", "pä ss",
    "pa\u2100ss", "${HOME_OF_NOBODY}", "$$", "'quoted'", '"', "\\", "+", "&=;", "//", "s3cret/pw@",
]  # fmt: skip


@given(st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"])))
def test_a_password_of_any_character_survives_a_bundles_url(password: str) -> None:
    url = f"amqp://alfa:{quote(password, safe='')}@b.example:5671/my%2Ffederation?heartbeat=4"
    (found,) = parameters(url, "test")
    assert (found.credentials.username, found.credentials.password) == ("alfa", password)
    assert (found.host, found.port, found.virtual_host) == ("b.example", 5671, "my/federation")


@pytest.mark.parametrize("password", [each for each in ODD if " " not in each])
def test_a_password_that_somebody_wrote_as_it_is_means_itself(password: str) -> None:
    (found,) = parameters(f"amqp://alfa:{password}@b.example:5671/f", "test")
    assert found.credentials.password == password
    assert (found.host, found.port, found.virtual_host) == ("b.example", 5671, "f")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("password", [each for each in ODD if " " not in each])
def test_a_bundle_holds_a_password_as_it_is(
    password: str, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WARREN_BROKER_URL", raising=False)
    path = tmp_path / "alfa.env"
    path.write_text(
        f"{mark}WARREN_BROKER_URL=amqp://alfa:{password}@h/f\r\nWARREN_CA=x\r\n", "utf-8"
    )
    words = ["--env-file", str(path)]
    found, _ = load(WorkerSettings, description="", argv=words)
    assert BrokerUrl.parse(found.broker_url).password == password
    assert (found.user, found.federation) == ("alfa", "f")


@pytest.mark.parametrize("password", ODD)
@pytest.mark.parametrize(
    "form",
    ["amqp://alfa:{}", "amqp://alfa:{}@", "amqp://alfa:{}@h:port/f", "amqp://alfa:{}@h:99999/f",
     "amqp://alfa:{}@[h/f", "http://alfa:{}@h/f", "amqp//alfa:{}@h/f", "amqp://alfa:{}@/f",
     "amqp://alfa:{}@h\n/f"],
)  # fmt: skip
def test_no_piece_of_a_password_is_in_a_message(
    form: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "@" in password and "@" not in form:
        form += "@"  # or what follows is a host
    secret = f"s3cr{password}t4il"
    url = form.format(secret)
    monkeypatch.setenv("WARREN_BROKER_URL", url)
    for read in (
        lambda: load(WorkerSettings, description="", argv=[]),
        lambda: parameters(url, "test"),
    ):
        with pytest.raises(ConfigError) as error:
            read()
        said = f"{error.value} {error.value.__cause__}"
        assert "s3cr" not in said
        assert "t4il" not in said
        assert "amqp://user:password@host:port/vhost" in said


def test_a_user_without_a_password_and_a_url_without_a_user_are_read() -> None:
    assert BrokerUrl.parse("amqps://alfa@h:5671/f").password is None
    found = BrokerUrl.parse("amqp://[::1]:5672/a@b")
    assert (found.user, found.host, found.vhost) == (None, "::1", "a@b")
    assert BrokerUrl.parse("amqp://h").vhost == "/"


def test_a_url_may_name_several_hosts() -> None:
    url = "amqp://alfa:p,w@a.example:5671,b.example,[::1]:5673/f%2F1?heartbeat=4"
    found = BrokerUrl.parse(url)
    assert found.hosts == (("a.example", 5671), ("b.example", None), ("::1", 5673))
    assert (found.user, found.password, found.vhost) == ("alfa", "p,w", "f/1")
    assert found.encoded() == url.replace("p,w", "p%2Cw")
    told = parameters(url, "test")
    assert [(each.host, each.port) for each in told] == [
        ("a.example", 5671), ("b.example", 5672), ("::1", 5673)
    ]  # fmt: skip
    assert {(each.virtual_host, each.heartbeat, each.credentials.password) for each in told} == {
        ("f/1", 4, "p,w")
    }


@pytest.mark.parametrize(
    "hosts", ["a,", ",a", "a,,b", "a:5672,b:port", "a:5672,b:99999", "a,[::1", "a;b,c d"]
)
def test_a_list_of_hosts_with_a_mistake_is_refused(hosts: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form"):
        parameters(f"amqp://alfa:x@{hosts}/f", "test")


def test_a_password_is_not_in_the_words_for_a_url() -> None:
    assert "word" not in repr(BrokerUrl.parse("amqp://alfa:word@h/f"))
