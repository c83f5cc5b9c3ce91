"""A keeper as a process at a real broker, clients and a coordinator that say what they like."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika

from broker_config.node.record import Node
from keeper_worker import keys as key_file
from tests.conftest import Place, new_place
from tests.support.masking import TERMS, request_of, seed_of
from tests.support.pace import DEADLINE_S
from tests.support.processes import DECRYPT, SIGNING, Worker
from warren_shared.protocol.codec import decode, encode
from warren_shared.protocol.encryption import MASKS, SEEDS, UpdateDecryptor, UpdateEncryptor
from warren_shared.protocol.messages import (
    Chunk,
    Revealed,
    Sealed,
    Seed,
    Unmask,
    Unmasked,
)
from warren_shared.protocol.signing import Signer, Verifier
from warren_shared.protocol.transfer import Incoming

Answer = Revealed | tuple[Unmasked, bytes]


class Stage:
    """One federation with a keeper in ``folder``; ``start`` runs it."""

    def __init__(self, place: Place, folder: Path, keys: key_file.KeeperKeys) -> None:
        self.place, self.folder, self.keys = place, folder, keys
        self.terms = TERMS.model_copy(update={"keeper": keys.encrypt_key_id})
        self.keepers: list[Worker] = []
        self._channels: dict[str, Any] = {}
        self._signer = Signer([SIGNING])
        self._opener = UpdateDecryptor([DECRYPT], place.name, MASKS)
        self._verifier = Verifier([keys.signing.public_key()])

    def start(self, *words: str, wait: str = "connected", **extra: str) -> Worker:
        """A keeper, as soon as it says ``wait``."""
        worker = Worker(
            "keeper-worker", self.place.urls["keeper"], "--state-dir", str(self.folder), *words,
            **extra,
        )  # fmt: skip
        self.keepers.append(worker)
        worker.wait_for(wait)
        return worker

    def close(self) -> None:
        for channel in self._channels.values():
            channel.connection.close()
        for worker in self.keepers:
            if worker.process.poll() is None:
                worker.kill()

    def channel(self, user: str) -> Any:
        if user not in self._channels:
            parameters = pika.URLParameters(self.place.urls[user])
            parameters.heartbeat = 0
            channel = pika.BlockingConnection(parameters).channel()
            channel.confirm_delivery()
            self._channels[user] = channel
        return self._channels[user]

    def seed(self, client: str, base: int = 0, **change: Any) -> Seed:
        told = {"federation": self.place.name, "secure": self.terms} | change
        return seed_of(client, base, **told)

    def send(self, *seeds: Seed, sender: str | None = None) -> None:
        """Each from its client, or all from ``sender``, sealed to the keeper."""
        for seed in seeds:
            user = sender or seed.client.partition(".")[0]
            key = self.keys.decrypt.public_key()
            body = UpdateEncryptor(key, self.place.name, user, SEEDS).seal(encode(seed))
            self.publish(user, "update", "mask", b"".join(body))

    def publish(self, user: str, exchange: str, routing_key: str, body: bytes) -> None:
        told = pika.BasicProperties(user_id=user, delivery_mode=2)
        self.channel(user).basic_publish(exchange, routing_key, body, told, mandatory=True)

    def request(self, version: int, *clients: Any, **change: Any) -> Unmask:
        told = {"federation": self.place.name, "secure": self.terms} | change
        return request_of(version, *clients, **told)

    def put(self, request: Unmask, *, signer: Signer | None = None) -> None:
        """Ask, and do not wait."""
        signed = (signer or self._signer).sign(request)
        self.publish("coordinator", "", "unmask", b"".join(encode(signed)))

    def ask(self, request: Unmask, *, signer: Signer | None = None) -> Answer:
        """Ask, and wait for the answer."""
        self.put(request, signer=signer)
        return self.answer(request.version)

    def answer(self, version: int = 1) -> Answer:
        """The next answer for ``version`` that is whole; others were given twice, after a kill."""
        manifest: Unmasked | None = None
        incoming: Incoming | None = None
        found = bytearray()
        for user, body in self._bodies():
            sealed, data = decode(body)
            assert isinstance(sealed, Sealed), "it is readable to the broker"
            message, piece = decode(self._opener.open(sealed, data, user))
            if isinstance(message, Revealed):
                self._verifier.check(message)
                if message.version != version:
                    continue
                return message
            if isinstance(message, Unmasked):
                self._verifier.check(message)
                manifest, found = message, bytearray(message.size_bytes)

                def store(start: int, data: memoryview, into: bytearray = found) -> None:
                    into[start : start + len(data)] = data

                incoming = Incoming(message, store, message.content)
            assert manifest is not None
            assert incoming is not None
            assert isinstance(message, Unmasked | Chunk)
            if message.transfer != manifest.transfer:
                continue  # what is left of one that a crash cut short
            is_whole = incoming.add(message.index if isinstance(message, Chunk) else 0, piece)
            if is_whole and manifest.version == version:
                return manifest, bytes(found)
        raise AssertionError("no answer")

    def _bodies(self) -> Iterator[tuple[str, bytes]]:
        channel = self.channel("coordinator")
        deadline = time.monotonic() + DEADLINE_S
        for method, properties, body in channel.consume("unmasked", inactivity_timeout=1):
            if method is not None:
                channel.basic_ack(method.delivery_tag)
                yield properties.user_id, body
            assert time.monotonic() < deadline, "no answer came: " + self.said
        channel.cancel()

    @property
    def said(self) -> str:
        return "\n".join(worker.said for worker in self.keepers)


@contextmanager
def stage(node: Node, folder: Path, clients: tuple[str, ...]) -> Iterator[Stage]:
    """A federation whose keeper has its keys in ``folder``."""
    keys, _ = key_file.make(folder)
    with new_place(node, clients, keeper=keys.public_line) as place:
        made = Stage(place, folder, keys)
        try:
            yield made
        finally:
            made.close()
