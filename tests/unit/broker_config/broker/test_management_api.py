"""The way to the management API: what is said when there is none, and which proxy is asked."""

import socket
from base64 import b64encode
from collections.abc import Iterator
from threading import Thread

import pytest

from broker_config.broker.management_api import Management
from tests.support.ports import free_port
from warren_shared.errors import BrokerConfigError

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a proxy that answers nothing, and what it was asked."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(4096))

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def failure(url: str) -> str:
    with Management(url, timeout_s=5) as management, pytest.raises(BrokerConfigError) as raised:
        management.get("overview")
    return str(raised.value)


def test_no_broker_is_one_line_with_the_systems_reason() -> None:
    said = failure(f"http://admin:secret@127.0.0.1:{free_port()}")
    assert "Connection refused): is the broker running" in said
    assert "object at" not in said
    assert "secret" not in said


def test_a_connection_that_the_broker_let_go_of_is_made_again() -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{"rabbitmq_version":"9"}'
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for said in (b"", answer):
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(said)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://admin:secret@127.0.0.1:{server.getsockname()[1]}"
        with Management(url, timeout_s=5) as management:
            assert management.version() == "9"
        thread.join(10)


def test_the_proxy_of_the_environment_is_asked(
    monkeypatch: pytest.MonkeyPatch, proxy: tuple[str, list[bytes]]
) -> None:
    address, heard = proxy
    monkeypatch.setenv("http_proxy", address)
    failure("http://admin:secret@broker.invalid:15672")
    assert heard[0].startswith(b"GET http://broker.invalid:15672/api/overview ")
    monkeypatch.setenv("https_proxy", address.replace("//", "//me:my%40word@"))
    failure("https://admin:secret@broker.invalid:15671")
    assert heard[1].startswith(b"CONNECT broker.invalid:15671 ")
    assert b"Basic " + b64encode(b"me:my@word") in heard[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "broker.invalid"])
def test_the_proxy_is_not_asked_for_this_machine_and_what_no_proxy_names(
    monkeypatch: pytest.MonkeyPatch, proxy: tuple[str, list[bytes]], host: str
) -> None:
    address, heard = proxy
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.setenv("no_proxy", ".invalid")
    failure(f"http://admin:secret@{host}:{free_port()}")
    assert heard == []


def test_a_proxy_that_is_no_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "ftp://proxy.invalid")
    with pytest.raises(BrokerConfigError, match="no_proxy"):
        Management("http://admin:secret@broker.invalid:15672")
