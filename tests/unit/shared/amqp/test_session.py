"""A session before it is started."""

import os
import threading
from pathlib import Path

import pytest

from warren_shared.amqp.session import Session, SessionState
from warren_shared.errors import ConfigError, Stopped
from warren_shared.tls import Broker


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_nothing_is_opened_before_it_is_started(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a.b.c")
    before = open_files()
    session = Session.for_broker(Broker("amqp://alfa@127.0.0.1:1/f", token_file=str(token)), "test")
    assert open_files() <= before
    assert "amqp test" not in {thread.name for thread in threading.enumerate()}
    assert session.state is SessionState.CONNECTING
    assert session.is_starting
    session.close()
    with pytest.raises(Stopped):
        session.publish([])


def test_what_cannot_be_read_is_said_before_it_is_started(tmp_path: Path) -> None:
    missing = Broker("amqp://alfa@127.0.0.1:1/f", token_file=str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="cannot be read"):
        Session.for_broker(missing, "test")
