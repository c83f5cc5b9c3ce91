"""Clients without a process each: hundreds of connections and mailboxes served by one loop.

``python -m benchmarks.clients.light_client BUNDLE FLEET FIRST COUNT SIZE_BYTES`` plays COUNT
replicas of a fleet from number FIRST on, until each has the run's final model. Each has its own
connection and its own mailbox and speaks the real protocol: joins, takes in models, answers each
with a delta that counts up its own index by 1. What it does not do is train, or keep the model.

At the end it prints one JSON object: by version, the monotonic seconds at which the last update to
it was sent (``sent``) and at which the last of these clients had it in its hands (``had``).
"""

import json
import secrets
import selectors
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import numpy as np

from benchmarks.clients.raw_amqp import CHANNEL, RawConnection
from benchmarks.clients.raw_frames import message, properties
from benchmarks.harness.preparation import allow_open_files
from warren_shared.naming import UPDATE_EXCHANGE, UPDATE_QUEUE, fleet_member, mailbox
from warren_shared.protocol.codec import Body, decode, encode
from warren_shared.protocol.messages import Chunk, Join, ModelManifest, UpdateManifest
from warren_shared.protocol.transfer import Incoming, Outgoing, transfer_fields
from warren_shared.tensors.layout import Layout, Weights

SILENCE_S: Final = 120.0  # nothing from the broker for so long: the run is dead
READ_BYTES: Final = 1 << 17


class Times:
    """When, by version, the last update to it was sent and the last client had it."""

    def __init__(self) -> None:
        self.sent: dict[int, float] = {}
        self.had: dict[int, float] = {}


class LightClient:
    """One replica: a state machine over a connection that never blocks."""

    def __init__(self, url: str, client: str, index: int, size_bytes: int, times: Times) -> None:
        self.raw = RawConnection(url, read_bytes=READ_BYTES)
        self.finished = False
        self._id, self._times = client, times
        self._federation = unquote(urlsplit(url).path[1:])
        self._arriving: Incoming | None = None
        self._version = -1  # newest model's
        # Zeros that were never written to: all but one page of them is the same page of memory.
        self._delta = Weights(_layout(size_bytes), np.zeros(size_bytes, np.uint8))
        self._delta[0][index] = 1
        self._fields = transfer_fields(self._delta.buffer)  # the digest is the same every round
        self.raw.on_body = self._deliver
        self.raw.confirm()
        self.raw.consume(mailbox(client), ack=False, exclusive=True)
        self.raw.socket.setblocking(False)
        self._publish([encode(Join(federation=self._federation, client=client))], "join")

    def _publish(self, bodies: Sequence[Body] | Outgoing, kind: str) -> None:
        for number, body in enumerate(bodies):
            told = properties(persistent=True, kind="chunk" if number else kind, user=self.raw.user)
            pieces = message(CHANNEL, UPDATE_EXCHANGE, UPDATE_QUEUE, told, body)
            self.raw.queue(pieces)

    def _deliver(self, _tag: int, body: memoryview) -> None:
        header, data = decode(body)
        if isinstance(header, ModelManifest):
            self._arriving = Incoming(header, lambda _start, _data: None)
            self._add(0, data)
        elif isinstance(header, Chunk) and self._is_due(header):
            self._add(header.index, data)

    def _is_due(self, chunk: Chunk) -> bool:
        return self._arriving is not None and self._arriving.manifest.transfer == chunk.transfer

    def _add(self, index: int, data: memoryview) -> None:
        if self._arriving is not None and self._arriving.add(index, data):
            manifest, self._arriving = self._arriving.manifest, None
            if isinstance(manifest, ModelManifest) and manifest.version > self._version:
                self._version = manifest.version
                self._times.had[manifest.version] = time.monotonic()
                self._answer(manifest)

    def _answer(self, model: ModelManifest) -> None:
        if model.final:
            self.finished = True
            return
        fields = self._fields | {"transfer": secrets.token_hex(8)}
        manifest = UpdateManifest(
            federation=self._federation,
            run=model.run,
            client=self._id,
            base_version=model.version,
            num_examples=1,
            layout=self._delta.layout.digest,
            **fields,  # type: ignore[arg-type]
        )
        self._publish(Outgoing(manifest, self._delta.buffer), "update")

    def turn(self) -> bool:
        """Send what can be sent; True if something is left for when the socket is writable."""
        left = not self.raw.flush()
        if not left and self.raw.unconfirmed:
            self._times.sent[self._version] = time.monotonic()
        return left


def _layout(size_bytes: int) -> Layout:
    return Layout.of([np.empty(size_bytes // 4, np.float32)])


def play(url: str, fleet: str, first: int, count: int, size_bytes: int) -> Times:
    """Play ``count`` replicas of ``fleet`` from number ``first`` on to the end of a run.

    Raises:
        TimeoutError: nothing came for ``SILENCE_S`` seconds.
    """
    times = Times()
    with selectors.DefaultSelector() as selector:
        for number in range(first, first + count):
            client = LightClient(url, fleet_member(fleet, number), number, size_bytes, times)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.turn() else 0)
            selector.register(client.raw.socket, events, client)
        left = count
        while left:
            ready = selector.select(SILENCE_S)
            if not ready:
                raise TimeoutError(f"nothing came for {SILENCE_S:.0f} s; {left} clients wait")
            for key, happened in ready:
                left -= _serve(selector, key, happened)
    return times


def _serve(selector: selectors.BaseSelector, key: selectors.SelectorKey, happened: int) -> bool:
    """Let one client do what its socket allows; whether that was its last turn."""
    client: LightClient = key.data
    if happened & selectors.EVENT_READ:
        client.raw.take()
    waits = client.turn() if happened & selectors.EVENT_WRITE or client.raw.waiting else False
    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0)
    if events != key.events:
        selector.modify(key.fileobj, events, client)
    if client.finished and not waits:
        selector.unregister(key.fileobj)
        client.raw.close()
        return True
    return False


def main(argv: Sequence[str]) -> int:
    """Play, then tell the times."""
    bundle, fleet, first, count, size_bytes = argv
    allow_open_files()
    url = Path(bundle).read_text().partition("WARREN_BROKER_URL=")[2].splitlines()[0]
    times = play(url, fleet, int(first), int(count), int(size_bytes))
    print(json.dumps(vars(times)))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
