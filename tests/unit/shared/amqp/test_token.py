"""The file that a token is in, and when to look at it again."""

import base64
import json
import logging
import time
from pathlib import Path

import pytest

from warren_shared.amqp.address import parameters
from warren_shared.amqp.token import LONGEST_LOOK_S, SHORTEST_LOOK_S, TokenFile, expiry
from warren_shared.errors import ConfigError
from warren_shared.tls import Broker

URL = "amqp://alfa@localhost/f"


def token(end: float | str | None = None) -> str:
    claims = {} if end is None else {"exp": end}
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"head.{text}.signature"


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (token(1234), 1234.0),
        (token(), None),
        (token("soon"), None),
        ("opaque", None),
        ("a.b.c", None),
        ("a.W10.c", None),  # []
        ("a.%%%.c", None),
    ],
)
def test_a_token_says_when_it_ends_or_it_does_not(text: str, end: float | None) -> None:
    assert expiry(text) == end


def test_what_is_in_the_file_is_the_password_of_each_login(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    (told,) = parameters(Broker(URL, token_file=str(file)), "test")

    class Start:
        mechanisms = "PLAIN AMQPLAIN"

    assert told.credentials.response_for(Start) == ("PLAIN", b"\0alfa\0first")
    file.write_text("second")
    assert told.credentials.response_for(Start) == ("PLAIN", b"\0alfa\0second")
    file.unlink()
    assert told.credentials.response_for(Start) == ("PLAIN", b"\0alfa\0second")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"two words", "no token"),
        (b"\xff", "no token"),
    ],
)
def test_a_file_without_a_token_is_refused_at_the_start(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        TokenFile.read(file)


def test_a_token_without_a_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    with pytest.raises(ConfigError, match="needs the user"):
        parameters(Broker("amqp://localhost/f", token_file=str(tmp_path / "token")), "test")


@pytest.mark.parametrize("password", ["secret", ""])
def test_a_token_beside_a_password_is_refused_and_the_password_is_not_said(
    tmp_path: Path, password: str
) -> None:
    (tmp_path / "token").write_text("x")
    url = f"amqp://alfa:{password}@localhost/f"
    with pytest.raises(ConfigError, match="take the password out of WARREN_BROKER_URL") as refused:
        parameters(Broker(url, token_file=str(tmp_path / "token")), "test")
    assert "secret" not in str(refused.value)


def test_a_half_written_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("whole")
    found = TokenFile.read(file)
    assert not found.renewed()
    for half in ("", "not yet"):
        file.write_text(half)
        assert not found.renewed()
        assert found.token == "whole"
    file.write_text("next")
    assert found.renewed()
    assert "next" not in repr(found)


def test_it_is_looked_at_several_times_in_a_tokens_life(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for life_s, look_s in ((0.0, SHORTEST_LOOK_S), (80.0, 10.0), (1e6, LONGEST_LOOK_S)):
        file.write_text(token(time.time() + life_s))
        found = TokenFile.read(file)
        assert found.look_s() == pytest.approx(look_s, abs=0.1)
        assert found.has_ended is (life_s == 0.0)
    file.write_text("opaque")
    assert TokenFile.read(file).look_s() == LONGEST_LOOK_S
    assert not TokenFile.read(file).has_ended


def test_that_it_is_about_to_end_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text(token(time.time() - 1))
    found = TokenFile.read(file)
    with caplog.at_level(logging.WARNING):
        found.look_s()
        found.look_s()
    assert caplog.text.count("has not been renewed") == 1
