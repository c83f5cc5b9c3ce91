"""A tunnel through a proxy: which one, how it is asked for, and why there is none."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.ports import free_port
from tests.support.proxy import KINDS
from tests.support.proxy import proxy as serving
from warren_shared.amqp import proxy as tunnels
from warren_shared.amqp.address import diagnose, parameters
from warren_shared.amqp.broker_url import BrokerUrl
from warren_shared.amqp.proxy import Proxy, ProxyFailed, proxy_for
from warren_shared.errors import BrokerRefused, BrokerUnavailable, ConfigError
from warren_shared.tls import Broker

SECRET = "s3cr:et@"
PLAIN = BrokerUrl.parse("amqp://alfa:x@broker.example/f")
ENCRYPTED = BrokerUrl.parse("amqps://alfa:x@broker.example/f")


@pytest.fixture
def listener() -> Iterator[int]:
    """The port of somebody who says "AMQP" to whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            while True:
                try:
                    one = server.accept()[0]
                except OSError:
                    return
                one.sendall(b"AMQP")
                one.close()

        threading.Thread(target=greet, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("login", ["", "site:plain"])
def test_what_comes_first_through_a_tunnel_is_the_goals_first_byte(
    kind: str, login: str, listener: int
) -> None:
    with (
        serving(kind, login) as server,
        Proxy.parse(server.url).connect("localhost", listener, 5) as through,
    ):
        assert through.recv(4, socket.MSG_WAITALL) == b"AMQP"
        assert server.goals == [f"localhost:{listener}"]  # by name, which the proxy looks up


def test_a_password_may_hold_anything(listener: int) -> None:
    with serving("connect", f"site:{SECRET}") as server:
        place = f"127.0.0.1:{server.port}"
        with Proxy.parse(f"http://site:s3cr%3Aet%40@{place}").connect("127.0.0.1", listener, 5):
            assert server.goals == [f"127.0.0.1:{listener}"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "said"),
    [("", "it wants a name and password"), ("site:wr0ng@", "it refuses the name or password")],
)
def test_a_login_that_is_wanted_or_wrong_ends_it_for_good_and_is_not_quoted(
    kind: str, given: str, said: str
) -> None:
    with serving(kind, "site:right") as server:
        scheme = "http" if kind == "connect" else "socks5"
        found = Proxy.parse(f"{scheme}://{given}127.0.0.1:{server.port}")
        with pytest.raises(ProxyFailed, match=said) as failed:
            found.connect("broker.example", 5671, 5)
    assert failed.value.final
    assert "wr0ng" not in f"{failed.value}{found!r}{found}"
    error, final = diagnose(failed.value, "the broker")
    assert isinstance(error, BrokerRefused)
    assert final
    assert "WARREN_PROXY" in str(error)


@pytest.mark.parametrize(
    ("answer", "said", "final"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "forbids CONNECT to broker.example:5671", True),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "it answers 503", False),
        (b"HTTP/1.0 407 No\r\nProxy-Authenticate: NTLM\r\n\r\n", "by other means", True),
        (b"220 mail.example\r\n\r\n", "no HTTP proxy", True),
        (b"HTTP/1.1 200 " + 20000 * b"x", "no end", False),
        (b"HTTP/1.1 200", "closed the connection", False),
    ],
)
def test_what_an_http_proxy_answers_instead_of_a_tunnel(
    answer: bytes, said: str, final: bool
) -> None:
    with serving("connect", answer=answer) as server:
        with pytest.raises(ProxyFailed, match=said) as failed:
            Proxy.parse(server.url).connect("broker.example", 5671, 5)
        assert failed.value.final is final
    assert isinstance(diagnose(failed.value, "b")[0], BrokerRefused if final else BrokerUnavailable)


@pytest.mark.parametrize("kind", KINDS)
def test_a_goal_that_the_proxy_does_not_reach_is_tried_again(kind: str) -> None:
    with serving(kind) as server, pytest.raises(ProxyFailed, match="no way to") as failed:
        Proxy.parse(server.url).connect("127.0.0.1", free_port(), 5)
    assert not failed.value.final


def test_a_proxy_of_the_other_kind_is_named(listener: int) -> None:
    with pytest.raises(ProxyFailed, match="no SOCKS5 proxy answers there") as failed:
        Proxy.parse(f"socks5://127.0.0.1:{listener}").connect("broker.example", 5671, 5)
    assert failed.value.final


def test_a_proxy_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "ANSWER_S", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ProxyFailed, match=r"did not answer within 0\.2 s"),
    ):
        Proxy("http", "127.0.0.1", silent.getsockname()[1]).connect("broker.example", 5671, 5)


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port"),
    [
        ("http://proxy.example", "http", "proxy.example", 3128),
        ("proxy.example:8080", "http", "proxy.example", 8080),
        ("socks5h://proxy.example", "socks5h", "proxy.example", 1080),
        ("http://a:b@[::1]:443/", "http", "::1", 443),
    ],
)
def test_proxies_are_written_as_elsewhere(url: str, scheme: str, host: str, port: int) -> None:
    found = Proxy.parse(url)
    assert (found.scheme, found.host, found.port) == (scheme, host, port)


@pytest.mark.parametrize(
    "url", ["https://p:1", "ftp://p:1", "http://u:s3cr3t@", "http://:s3cr3t@p:q"]
)
def test_what_is_no_proxy_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Proxy.parse(url)
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "broker", "port"),
    [
        ({}, ENCRYPTED, None),
        ({"https_proxy": "http://p:1"}, ENCRYPTED, 1),
        ({"HTTPS_PROXY": "p:1", "all_proxy": "p:2"}, ENCRYPTED, 1),
        ({"https_proxy": "p:1", "all_proxy": "p:2"}, PLAIN, 2),
        ({"https_proxy": "p:1"}, PLAIN, None),
        ({"all_proxy": "p:2", "no_proxy": "10.0.0.0/8, .example"}, PLAIN, None),
        ({"all_proxy": "p:2", "NO_PROXY": "*"}, PLAIN, None),
        ({"all_proxy": "p:2", "no_proxy": "roker.example"}, PLAIN, 2),
        ({"all_proxy": "p:2"}, BrokerUrl.parse("amqp://localhost/f"), None),
        ({"all_proxy": "p:2"}, BrokerUrl.parse("amqp://127.0.0.1/f"), None),
        ({"all_proxy": "p:2", "no_proxy": "10.0.0.0/8"}, BrokerUrl.parse("amqp://10.1.2.3"), None),
    ],
)
def test_the_environments_proxy_is_taken_where_it_applies(
    environment: dict[str, str], broker: BrokerUrl, port: int | None
) -> None:
    found = proxy_for("", broker, environment)
    assert (found.port if found else None) == port
    assert proxy_for("none", broker, environment) is None
    said = proxy_for("socks5://q:3", broker, environment)
    assert said is not None
    assert said.port == 3


def test_a_damaged_url_in_the_environment_says_where_it_came_from() -> None:
    with pytest.raises(ConfigError, match="WARREN_PROXY=none goes without"):
        proxy_for("", ENCRYPTED, {"https_proxy": "https://p:1"})


def test_the_brokers_certificate_has_to_be_the_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    (told,) = parameters(Broker("amqps://alfa:x@broker.example/f", proxy="http://p:1"), "test")
    assert told.proxy == Proxy("http", "p", 1)
    assert told.ssl_options.server_hostname == "broker.example"
    assert (told.host, told.port) == ("broker.example", 5671)
