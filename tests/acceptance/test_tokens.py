"""Workers that log in with access tokens, on a node that knows who signs them."""

import base64
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from broker_config.declaration.federation import Federation
from broker_config.node import config_files
from broker_config.node import lifecycle as private
from broker_config.node.record import Node
from tests.support.processes import Worker, workers
from warren_shared.amqp.broker_url import BrokerUrl

FEDERATION = Federation("tokens", clients=("alfa", "bravo"), fleets=())
LIFE_S = 8.0
RENEWED_EVERY_S = 2.5
SCOPES = {
    "alfa": ("read:tokens/model.alfa", "write:tokens/update"),
    "coordinator": (
        *("read:tokens/update", "read:tokens/update.rejected"),
        *("read:tokens/coordinator.newest", "read:tokens/coordinator.enrolled"),
        *("write:tokens/model", "write:tokens/event/*", "write:tokens/update.rejected"),
        *("write:tokens/amq.default", "write:tokens/model.*", "write:tokens/event.state"),
    ),
}
_CONFIGURATION = """\
auth_backends.1 = internal
auth_backends.2 = rabbit_auth_backend_oauth2
auth_oauth2.resource_server_id = warren
auth_oauth2.default_key = ours
auth_oauth2.signing_keys.ours = {key}
"""


@dataclass
class Issuer:
    """Whoever signs tokens for ``node``; ``ends`` are when those of each user end."""

    node: Node
    key: rsa.RSAPrivateKey
    folder: Path
    ends: dict[str, list[float]] = field(default_factory=dict)

    def url(self, user: str) -> str:
        """Where the broker is, without a password."""
        parts = BrokerUrl.parse(self.node.broker_url(user))
        return f"{parts.scheme}://{user}@{parts.host}:{parts.port}/{parts.vhost}"

    def write(self, user: str, life_s: float) -> Path:
        """Put a token of ``user`` into its file, at once and whole; return the file."""
        now = time.time()
        claims = {
            "iss": "tests", "sub": user, "client_id": user, "aud": ["warren"],
            "iat": int(now), "exp": int(now + life_s),
            "scope": [f"warren.{scope}" for scope in SCOPES[user]],
        }  # fmt: skip
        head = {"alg": "RS256", "typ": "JWT", "kid": "ours"}
        said = b".".join(_text(json.dumps(part).encode()) for part in (head, claims))
        signature = self.key.sign(said, padding.PKCS1v15(), hashes.SHA256())
        self.ends.setdefault(user, []).append(now + life_s)
        file = self.folder / user
        half = file.with_suffix(".new")
        half.write_bytes(said + b"." + _text(signature) + b"\n")
        os.replace(half, file)
        return file

    @contextmanager
    def renewing(self, *users: str) -> Iterator[None]:
        """Renew the tokens of ``users`` as a program beside the workers would."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(RENEWED_EVERY_S):
                for user in users:
                    self.write(user, LIFE_S)

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _text(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@pytest.fixture(scope="module")
def issuer(seen: Callable[[Node], Node]) -> Iterator[Issuer]:
    home = Path(tempfile.mkdtemp(prefix="warren-tests-"))
    plugins = config_files._plugins
    try:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = home / "signer.pem"
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        (home / "node" / "conf.d").mkdir(parents=True)
        told = home / "node" / "conf.d" / "90-oauth2.conf"
        told.write_text(_CONFIGURATION.format(key=public))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                config_files,
                "_plugins",
                lambda ports, tls: [*plugins(ports, tls), "rabbitmq_auth_backend_oauth2"],
            )
            node = seen(private.up(home, FEDERATION))
        yield Issuer(node, key, home)
    finally:
        private.down(home)
        shutil.rmtree(home, ignore_errors=True)


def test_tokens_that_end_during_a_run_cost_no_connection(issuer: Issuer, tmp_path: Path) -> None:
    begun = len(issuer.ends.get("alfa", ()))
    files = {user: str(issuer.write(user, LIFE_S)) for user in SCOPES}
    task = ("--task", "tests.tasks:ledger")
    told = ("--quorum", "2", "--rounds", "1", "--checkpoint-dir", str(tmp_path / "c"))
    with workers() as running, issuer.renewing(*SCOPES):
        coordinator = Worker(
            "coordinator-worker", issuer.url("coordinator"), *told,
            "--token-file", files["coordinator"],
        )  # fmt: skip
        client = Worker("client-worker", issuer.url("alfa"), *task, WARREN_TOKEN_FILE=files["alfa"])
        running += [coordinator, client]
        coordinator.wait_for("update_accepted", client="alfa")
        while sum(end < time.time() for end in issuer.ends["alfa"][begun:]) < 3:
            client.wait_for("token_renewed")
        running.append(
            Worker("client-worker", issuer.node.broker_url("bravo"), *task, "--index", "1")
        )
        assert [worker.end() for worker in running] == [0, 0, 0]
        for worker, connections in ((client, 1), (coordinator, 2)):
            assert worker.said.count('"action": "connected"') == connections
            assert "connection_lost" not in worker.said
        assert client.said.count('"action": "token_renewed"') >= 3


def test_a_token_that_is_renewed_too_late_costs_the_connection_and_no_more(
    issuer: Issuer, tmp_path: Path
) -> None:
    """RabbitMQ 4 ends the connection with the token, 3.10 refuses the next message."""
    file = str(issuer.write("alfa", 12.0))
    task = ("--task", "tests.tasks:ledger")
    told = ("--quorum", "2", "--rounds", "2", "--checkpoint-dir", str(tmp_path / "c"))
    with workers() as running:
        client = Worker("client-worker", issuer.url("alfa"), *task, "--token-file", file)
        coordinator = Worker("coordinator-worker", issuer.node.broker_url("coordinator"), *told)
        running += [client, coordinator]
        coordinator.wait_for("update_accepted", client="alfa")
        client.wait_for("token_ends")
        threading.Event().wait(issuer.ends["alfa"][-1] + 1 - time.time())
        running.append(
            Worker("client-worker", issuer.node.broker_url("bravo"), *task, "--index", "1")
        )
        client.wait_for("connection_lost")
        issuer.write("alfa", 3600.0)
        client.wait_for("connected")
        assert [worker.end() for worker in running] == [0, 0, 0]


def test_a_token_that_has_ended_or_is_somebody_elses_ends_a_worker_at_once(issuer: Issuer) -> None:
    task = ("--task", "tests.tasks:ledger", "--wait-broker-s", "60")
    file = str(issuer.write("alfa", -60.0))
    with workers() as running:
        running.append(
            client := Worker("client-worker", issuer.url("alfa"), *task, "--token-file", file)
        )
        assert client.end() == 1
        assert "refused the token (--token-file): it has ended" in client.said
        assert Path(file).read_text().strip() not in client.said
