"""Encrypted federations over real nodes, and one clear line for whatever is wrong with them."""

import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pika
import pytest
from pika import exceptions

from broker_config.cli import main
from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle as private
from broker_config.node.record import Node
from broker_config.secrets import certificates
from broker_config.secrets.bundles import bundle_path
from broker_config.secrets.certificates import Authority
from coordinator_worker.storage import checkpoint
from tests.conftest import Place
from tests.support.keeper import KEEPER, OTHER_KEEPER
from tests.support.processes import Worker, workers
from warren_shared.amqp.address import parameters
from warren_shared.tls import Broker

FEDERATION = Federation(clients=("alfa", "bravo"), fleets=(), encrypt_updates=True)


@pytest.fixture(scope="module", params=["tls", "mutual"])
def encrypted(request: pytest.FixtureRequest, seen: Callable[[Node], Node]) -> Iterator[Node]:
    home = Path(tempfile.mkdtemp(prefix="warren-tests-"))
    try:
        yield seen(private.up(home, FEDERATION, tls=request.param))
    finally:
        private.down(home)
        shutil.rmtree(home, ignore_errors=True)


def bundle(node: Node, user: str) -> dict[str, str]:
    lines = bundle_path(node.home, user).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def broker(node: Node, user: str, **change: str) -> Broker:
    told = bundle(node, user) | change
    ca, certificate, key = (
        told.get(f"WARREN_{name}", "") for name in ("CA", "TLS_CERTIFICATE", "TLS_KEY")
    )
    return Broker(told["WARREN_BROKER_URL"], ca, certificate, key)


def worker(command: str, told: dict[str, str], *arguments: str) -> Worker:
    return Worker(command, told["WARREN_BROKER_URL"], *arguments, **told)


def refused(told: dict[str, str]) -> str:
    """The one line that a client says with these settings."""
    task = ("--task", "tests.tasks:ledger", "--wait-broker-s", "2")
    with workers() as started:
        started.append(worker("client-worker", told, *task))
        assert started[0].end() in (1, 2)
        (line,) = [line for line in started[0].lines if not line.startswith("{")]
    return line


def test_a_federation_learns_over_it(encrypted: Node, tmp_path: Path) -> None:
    with workers() as started:
        for index, user in enumerate(("alfa", "bravo")):
            task = ("--task", "tests.tasks:ledger", "--index", str(index), "--size", "700000")
            started.append(worker("client-worker", bundle(encrypted, user), *task))
        goal = ("--quorum", "2", "--rounds", "4", "--checkpoint-dir", str(tmp_path))
        started.append(worker("coordinator-worker", bundle(encrypted, "coordinator"), *goal))
        assert [each.end() for each in started] == [0, 0, 0]
    state = checkpoint.load(tmp_path)
    assert state is not None
    np.testing.assert_allclose(state.weights[0][:3], [2, 2, 0])


def test_the_management_api_is_encrypted_too(encrypted: Node) -> None:
    assert encrypted.address.management.startswith("https://")
    assert main(["check", "--home", str(encrypted.home)]) == 0
    assert main(["enrol", "charlie", "--home", str(encrypted.home)]) == 0
    assert "WARREN_CA" in bundle(encrypted, "charlie")
    assert main(["revoke", "charlie", "--home", str(encrypted.home)]) == 0


def test_it_does_not_speak_without_encryption(encrypted: Node) -> None:
    told = bundle(encrypted, "alfa")
    plain = told["WARREN_BROKER_URL"].replace("amqps://", "amqp://")
    assert "begin WARREN_BROKER_URL with amqps://" in refused(told | {"WARREN_BROKER_URL": plain})


def test_an_authority_that_nobody_named_is_not_trusted(encrypted: Node) -> None:
    told = bundle(encrypted, "alfa")
    del told["WARREN_CA"]
    assert "not from whom we trust" in refused(told)


def test_another_authority_is_not_trusted(encrypted: Node, tmp_path: Path) -> None:
    told = bundle(encrypted, "alfa") | {"WARREN_CA": Authority(tmp_path).for_bundle()}
    assert "not from whom we trust" in refused(told)


def test_a_certificate_for_another_host_is_not_accepted(encrypted: Node) -> None:
    """The node's is for 127.0.0.1; a relay on another name leads to it."""
    told = bundle(encrypted, "alfa")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(encrypted, broker(encrypted, "alfa").context(), host="elsewhere.example")
    url = told["WARREN_BROKER_URL"].replace("127.0.0.1", socket.gethostname())
    try:
        local = socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        local = False
    if local:
        assert "another host name" in refused(told | {"WARREN_BROKER_URL": url})


def test_tls_1_1_is_refused_and_1_2_is_spoken(encrypted: Node) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = broker(encrypted, "alfa").context()
        context.minimum_version = context.maximum_version = version
        assert handshake(encrypted, context) == version.name.replace("_", ".")
    context = broker(encrypted, "alfa").context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(encrypted, context)


def handshake(node: Node, context: ssl.SSLContext, host: str = "127.0.0.1") -> str | None:
    with (
        socket.create_connection(("127.0.0.1", node.ports.amqp), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=host) as wrapped,
    ):
        return wrapped.version()


def test_an_expired_certificate_is_said(
    encrypted: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of our own with a certificate that ended when it was made."""
    monkeypatch.setattr(certificates, "_DAYS", 0)
    authority = Authority(tmp_path)
    server = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        told = bundle(encrypted, "alfa") | {
            "WARREN_CA": authority.for_bundle(),
            "WARREN_BROKER_URL": f"amqps://alfa:x@127.0.0.1:{port}/f",
        }
        task = ("--task", "tests.tasks:ledger", "--wait-broker-s", "5")
        with workers() as started:
            started.append(worker("client-worker", told, *task))
            accepted, _ = listener.accept()
            with accepted, pytest.raises((ssl.SSLError, OSError)):
                context.wrap_socket(accepted, server_side=True).close()
            assert started[0].end() == 1
            assert "has expired" in started[0].said


def test_tls_where_there_is_none_is_said(place: Place) -> None:
    url = place.urls["alfa"].replace("amqp://", "amqps://")
    assert "no TLS there" in refused({"WARREN_BROKER_URL": url})


@pytest.mark.parametrize("encrypted", ["mutual"], indirect=True)
class TestMutual:
    """Users are who their certificate says."""

    def test_no_password_is_in_a_bundle(self, encrypted: Node) -> None:
        assert ":" not in bundle(encrypted, "alfa")["WARREN_BROKER_URL"].partition("@")[0][8:]

    def test_without_a_certificate_nobody_gets_in(self, encrypted: Node) -> None:
        told = bundle(encrypted, "alfa")
        del told["WARREN_TLS_CERTIFICATE"], told["WARREN_TLS_KEY"]
        assert "client certificate" in refused(told)

    def test_another_authoritys_certificate_is_refused(
        self, encrypted: Node, tmp_path: Path
    ) -> None:
        forged, key = Authority(tmp_path).user("alfa").for_bundle()
        change = {"WARREN_TLS_CERTIFICATE": forged, "WARREN_TLS_KEY": key}
        assert "does not accept our certificate" in refused(bundle(encrypted, "alfa") | change)

    def test_a_password_is_no_way_in(self, encrypted: Node) -> None:
        (told,) = parameters(broker(encrypted, "alfa"), "test")
        told.credentials = pika.PlainCredentials("alfa", "x")
        with pytest.raises(exceptions.AMQPConnectionError):
            pika.BlockingConnection(told)

    def test_a_certificate_of_alfa_is_alfa_whatever_the_url_says(self, encrypted: Node) -> None:
        url = bundle(encrypted, "bravo")["WARREN_BROKER_URL"]
        (told,) = parameters(broker(encrypted, "alfa", WARREN_BROKER_URL=url), "test")
        with pika.BlockingConnection(told) as connection:
            channel = connection.channel()
            with pytest.raises(exceptions.ChannelClosedByBroker) as refused_:
                channel.basic_consume("model.bravo", lambda *_: None)
            assert refused_.value.reply_code == 403
            assert "'alfa'" in refused_.value.reply_text

    def test_who_was_revoked_is_out_with_a_good_certificate(self, encrypted: Node) -> None:
        home = str(encrypted.home)
        assert main(["enrol", "thief", "--home", home]) == 0
        (stolen,) = parameters(broker(encrypted, "thief"), "test")
        pika.BlockingConnection(stolen).close()
        assert main(["revoke", "thief", "--home", home]) == 0
        with pytest.raises(exceptions.ProbableAuthenticationError):
            pika.BlockingConnection(stolen)

    def test_a_password_that_ends_nothing_is_not_rotated(
        self, encrypted: Node, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = ("--home", str(encrypted.home))
        for names in (["alfa"], [], ["coordinator", "watcher"]):
            assert main(["rotate", *home, *names]) == 1
            assert "another password does not end: revoke a client" in capsys.readouterr().err
        before = bundle(encrypted, "watcher")["WARREN_MANAGEMENT_URL"]
        assert main(["rotate", *home, "watcher"]) == 0
        assert bundle(encrypted, "watcher")["WARREN_MANAGEMENT_URL"] != before
        assert main(["rotate", *home, "--keys"]) == 0
        assert main(["check", *home]) == 0

    def test_nobody_is_enrolled_under_a_name_whose_certificate_would_be_good_again(
        self, encrypted: Node, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = str(encrypted.home)
        assert main(["enrol", "robbed", "--home", home]) == 0
        (stolen,) = parameters(broker(encrypted, "robbed"), "test")
        assert main(["revoke", "robbed", "--home", home]) == 0
        capsys.readouterr()
        assert main(["enrol", "robbed", "--home", home]) == 1
        assert "enrol it under another name" in capsys.readouterr().err
        with pytest.raises(exceptions.ProbableAuthenticationError):
            pika.BlockingConnection(stolen)
        assert main(["up", "--home", home]) == 0
        assert main(["check", "--home", home]) == 0

    def test_no_keeper_follows_one_whose_certificate_would_be_good_again(
        self, encrypted: Node, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = ("--home", str(encrypted.home))
        assert main(["apply", *home, "--keeper", KEEPER]) == 0
        (before,) = parameters(broker(encrypted, "keeper"), "test")
        capsys.readouterr()
        assert main(["apply", *home, "--keeper", OTHER_KEEPER]) == 1
        assert "that of the keeper before would be good again" in capsys.readouterr().err
        assert main(["check", *home]) == 0
        pika.BlockingConnection(before).close()
        assert main(["apply", *home, "--keeper", "none"]) == 0
        with pytest.raises(exceptions.ProbableAuthenticationError):
            pika.BlockingConnection(before)
        for again in (KEEPER, OTHER_KEEPER):
            capsys.readouterr()
            assert main(["apply", *home, "--keeper", again]) == 1
            assert "that of the keeper before would be good again" in capsys.readouterr().err
        assert main(["up", *home]) == 0
        assert main(["check", *home]) == 0
        with pytest.raises(exceptions.ProbableAuthenticationError):
            pika.BlockingConnection(before)


def test_a_running_node_does_not_change_its_encryption(
    encrypted: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--no-tls", "--home", str(encrypted.home)]) == 1
    assert "`broker-config down` first" in capsys.readouterr().err
