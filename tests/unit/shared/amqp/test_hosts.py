"""In which order a session tries the nodes of its broker."""

from collections import Counter

from warren_shared.amqp.address import CONNECT_TIMEOUT_S, parameters
from warren_shared.amqp.hosts import FIRST_LAP_TIMEOUT_S, Hosts
from warren_shared.tls import Broker

URL = "amqp://alfa:x@a,b:5673,c/f"
ADDRESSES = {"a": ["10.0.0.1"], "b": ["10.0.0.2", "10.0.1.2"], "c": ["10.0.0.3"]}


def resolved(host: str, _port: int) -> list[str]:
    return ADDRESSES[host]


def lap(hosts: Hosts) -> list[tuple[str, int]]:
    return [(each.host, each.port) for each in (hosts.next() for _ in range(4))]


def test_every_address_is_tried_before_any_is_tried_again() -> None:
    hosts = Hosts(parameters(URL, "test"), resolved)
    expected = {("a", 5672), ("10.0.0.2", 5673), ("10.0.1.2", 5673), ("c", 5672)}
    assert set(lap(hosts)) == expected
    assert set(lap(hosts)) == expected
    assert hosts.count == 4


def test_the_nodes_share_those_who_connect() -> None:
    first = Counter(Hosts(parameters(URL, "test"), resolved).next().host for _ in range(300))
    assert set(first) == {"a", "10.0.0.2", "c"}
    assert min(first.values()) > 50


def test_after_a_connection_the_next_node_is_tried() -> None:
    hosts = Hosts(parameters(URL, "test"), resolved)
    before = hosts.next().host
    hosts.connected()
    assert hosts.next().host != before


def test_while_another_node_may_answer_none_is_waited_for_long() -> None:
    hosts = Hosts(parameters(URL, "test"), resolved)
    assert {hosts.next().socket_timeout for _ in range(4)} == {FIRST_LAP_TIMEOUT_S}
    assert {hosts.next().socket_timeout for _ in range(4)} == {CONNECT_TIMEOUT_S}
    hosts.connected()
    assert {hosts.next().stack_timeout for _ in range(4)} == {FIRST_LAP_TIMEOUT_S}
    alone = Hosts(parameters("amqp://alfa:x@a/f", "test"), resolved)
    assert {alone.next().socket_timeout for _ in range(3)} == {CONNECT_TIMEOUT_S}


def test_a_name_without_an_address_is_tried_for_what_is_said_of_it() -> None:
    def nowhere(_host: str, _port: int) -> list[str]:
        raise OSError

    hosts = Hosts(parameters(URL, "test"), nowhere)
    assert {hosts.next().host for _ in range(3)} == {"a", "b", "c"}


def test_a_name_behind_a_proxy_is_the_proxys_to_look_up() -> None:
    broker = Broker(URL, proxy="http://proxy.example:3128")

    def nobody(_host: str, _port: int) -> list[str]:
        raise AssertionError("it was looked up")

    hosts = Hosts(parameters(broker, "test"), nobody)
    assert {hosts.next().host for _ in range(3)} == {"a", "b", "c"}


def test_the_certificate_is_checked_against_the_name() -> None:
    hosts = Hosts(parameters("amqps://alfa:x@b/f", "test"), resolved)
    assert {hosts.next().ssl_options.server_hostname for _ in range(2)} == {"b"}


def test_a_name_is_asked_for_its_addresses_again_each_time_round() -> None:
    addresses = iter((["10.0.0.1", "10.0.0.2"], ["10.0.0.3"]))
    hosts = Hosts(parameters("amqp://alfa:x@a/f", "test"), lambda *_: next(addresses))
    assert {hosts.next().host for _ in range(2)} == {"10.0.0.1", "10.0.0.2"}
    assert hosts.next().host == "a"
    assert hosts.count == 1
