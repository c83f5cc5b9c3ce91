"""Fixtures: one private RabbitMQ node for the whole test run, a federation (vhost) for each test.

The tests never skip for want of a broker: without one they fail. ``WARREN_TEST_RABBITMQ_SERVER``
names another ``rabbitmq-server`` to run them on; ``WARREN_TEST_RABBITMQ_VERSION`` says of which
version it has to be (``4``, ``4.0``), and the run ends when it is another.
"""

import faulthandler
import itertools
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exc
from typing import NoReturn

import pytest
from hypothesis import settings

from broker_config.broker.management_api import Management
from broker_config.declaration.federation import Federation, Fleet
from broker_config.node import lifecycle as private_node
from broker_config.node.ports import Ports
from broker_config.node.record import Node
from tests.support.ports import free_port

# On two shared cores an example may take long for reasons that are not the code's.
settings.register_profile("warren", deadline=None)
settings.load_profile("warren")

CLIENTS = ("alfa", "bravo", "charlie", "delta")
FLEET = Fleet("fleet", 3)

# Read at once, since some tests take all of these variables away.
WANTED_VERSION = os.environ.get("WARREN_TEST_RABBITMQ_VERSION", "")

# What RabbitMQ 4 still lets a client declare, though not for long, is refused here as if it were
# gone already; 3.10 knows no such setting and passes over it.
_NOTHING_DEPRECATED = """
[{rabbit, [{permit_deprecated_features, #{transient_nonexcl_queues => false}}]}].
"""

END_S = 5.0  # for a connection that has been told to end

_numbers = itertools.count()
_brokers: set[str] = set()


@pytest.fixture(scope="session")
def seen(pytestconfig: pytest.Config) -> Callable[[Node], Node]:
    """Says which broker a node is, once, and lets no test begin on one that is not wanted."""
    terminal = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def see(node: Node) -> Node:
        with node.manage() as management:
            found = management.get("overview")
        version = found["rabbitmq_version"]
        broker = f"RabbitMQ {version} on Erlang {found['erlang_version']}"
        if broker not in _brokers:
            _brokers.add(broker)
            with capture.global_and_fixture_disabled():
                terminal.write_line(f"\ntests run on {broker}")
        if WANTED_VERSION and not f"{version}.".startswith(f"{WANTED_VERSION}."):
            pytest.exit(f"this is {broker}, wanted is {WANTED_VERSION}", returncode=1)
        return node

    return see


def pytest_configure() -> None:
    """Have what the tests start end by an interrupt, also where this run was started beside others.

    A shell has what it starts with ``&`` ignore SIGINT, and so does all that such a process starts.

    A session whose thread fails ends its process: then, too, it has to be known why.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    real, leave = os.dup(2), os._exit  # nothing is captured yet

    def leave_loudly(code: int) -> NoReturn:
        if code:
            os.write(real, f"\na test's process ends with {code}:\n{format_exc()}".encode())
            faulthandler.dump_traceback(real)
        leave(code)

    os._exit = leave_loudly  # type: ignore[assignment]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it again where one looks for the result."""
    for broker in sorted(_brokers):
        terminalreporter.write_line(f"tests ran on {broker}")


@pytest.fixture(scope="session")
def node(
    seen: Callable[[Node], Node],
) -> Iterator[Node]:
    """A private node, stopped at the end."""
    # Not under pytest's own temporary folders: those outlive the run, and so would the passwords.
    home = Path(tempfile.mkdtemp(prefix="warren-tests-"))
    try:
        (home / "node").mkdir()
        (home / "node" / "advanced.config").write_text(_NOTHING_DEPRECATED)
        server = os.environ.get("WARREN_TEST_RABBITMQ_SERVER")
        ports = Ports(prometheus=free_port())
        yield seen(private_node.up(home, Federation(fleets=()), ports, server=server))
    finally:
        private_node.down(home)
        shutil.rmtree(home, ignore_errors=True)


@dataclass(frozen=True)
class Place:
    """A federation of its own on the test node: clients ``CLIENTS`` and the fleet ``FLEET``."""

    name: str
    node: Node
    urls: dict[str, str]
    management: Management

    def queue(self, name: str) -> dict[str, object]:
        """What the management API says of a queue."""
        found = self.management.get("queues", self.name, name)
        assert isinstance(found, dict), f"there is no queue {name}"
        return found


@contextmanager
def new_place(
    node: Node, clients: Sequence[str] = CLIENTS, fleet: Fleet = FLEET, keeper: str = ""
) -> Iterator[Place]:
    """A fresh federation; its vhost goes with the block."""
    federation = Federation(
        f"test-{next(_numbers)}", clients=tuple(clients), fleets=(fleet,), keeper=keeper
    )
    private_node.bring_to_state(node, federation)
    users = (*clients, fleet.name, "coordinator", "watcher", "admin")
    users += ("keeper",) if keeper else ()
    urls = {user: node.broker_url(user) for user in users}
    with node.manage() as management:
        try:
            yield Place(federation.name, node, urls, management)
        finally:
            management.delete("vhosts", federation.name)


@pytest.fixture
def place(node: Node) -> Iterator[Place]:
    """A fresh federation; its vhost goes with the test."""
    with new_place(node) as found:
        yield found


@contextmanager
def _nothing_connects_on() -> Iterator[None]:
    """Fail if a session is left behind: it would connect on in the tests that follow.

    After the last of them its thread fails, and ends the process before its results are told.
    """
    before = set(threading.enumerate())
    yield
    after = set(threading.enumerate()) - before
    sessions = [each for each in after if each.name.startswith("amqp ")]
    for each in sessions:
        each.join(END_S)  # it may be about to end
    left = [each.name for each in sessions if each.is_alive()]
    assert not left, f"left behind: {', '.join(left)}"


@pytest.fixture(autouse=True)
def no_session_of_a_test_is_left() -> Iterator[None]:
    """A test ends the sessions that it began."""
    with _nothing_connects_on():
        yield


@pytest.fixture(scope="session", autouse=True)
def no_session_of_a_module_is_left() -> Iterator[None]:
    """So does a fixture of a class or a module."""
    with _nothing_connects_on():
        yield
