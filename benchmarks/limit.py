"""The physical limit of a round: its bytes and promises, without anything computed on them.

``python -m benchmarks.limit --cases 2x4MB,10x40MB`` prints seconds a round: through the
broker's own exchanges, queues, persistence and confirms with the fastest client we could write,
plain and over TLS; and over loopback TCP with no broker at all, below which no hub can get on this
machine.
"""

import argparse
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.clients.raw_amqp import CHANNEL, RawConnection
from benchmarks.clients.raw_frames import Piece, message, properties
from benchmarks.harness.matrix import Case, parse_cases
from benchmarks.harness.parties import Party, Round, round_seconds
from benchmarks.harness.preparation import prepare
from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle
from warren_shared.naming import CHUNK_BYTES, MODEL_EXCHANGE, UPDATE_EXCHANGE, UPDATE_QUEUE, mailbox

CASES: Final = "2x4MB,10x40MB"
ROUNDS: Final = 7
WARM_UP: Final = 2
ROUND_TIMEOUT_S: Final = 120.0
BROKER_LIMIT: Final = "raw client"
LOOPBACK_LIMIT: Final = "loopback TCP"


def through_broker(case: Case, rounds: int = ROUNDS, tls: str = "") -> list[float]:
    """Seconds of each of ``rounds`` rounds through a broker of its own, the warm-up left out.

    Each client publishes its update in persistent, confirmed messages; the coordinator's stand-in
    takes them all, acknowledges, and publishes as much to the fanout; the round ends when the last
    client has it in its hands. ``tls`` is "" or "tls".
    """
    names = tuple(f"c{number}" for number in range(case.clients))
    federation = Federation(clients=names, fleets=(), model_bytes=case.size_bytes)
    with tempfile.TemporaryDirectory(prefix="warren-limit-") as folder:
        home = Path(folder)
        try:
            running = lifecycle.up(home, federation, tls=tls)
            url = running.broker_url("coordinator")
            parties: list[Party] = [(coordinator, (url, case.clients, case.size_bytes))]
            parties += [
                (client, (running.broker_url(name), name, case.size_bytes)) for name in names
            ]
            found = round_seconds(parties, rounds + WARM_UP, ROUND_TIMEOUT_S)
        finally:
            lifecycle.down(home)
    return found[WARM_UP:]


def over_loopback(case: Case, rounds: int = ROUNDS) -> list[float]:
    """Seconds of each of ``rounds`` rounds over plain sockets, the warm-up left out."""
    with socket.create_server(("127.0.0.1", 0), backlog=case.clients) as server:
        address = server.getsockname()
        parties: list[Party] = [(hub, (server, case.clients, case.size_bytes))]
        parties += [(spoke, (address, case.size_bytes))] * case.clients
        return round_seconds(parties, rounds + WARM_UP, ROUND_TIMEOUT_S)[WARM_UP:]


# --- parties of a round, each in a process of its own -------------------------------------------


def client(url: str, name: str, size_bytes: int) -> Round:
    """Publish an update with confirms, then take in a model."""
    raw, count = _connected(url, mailbox(name), ack=False)
    letters = _letters(UPDATE_EXCHANGE, UPDATE_QUEUE, size_bytes, persistent=True)

    def one_round() -> None:
        for letter in letters:
            raw.queue(letter)
        raw.flush()
        while raw.unconfirmed or count.bytes < size_bytes:
            raw.take()
        count.bytes -= size_bytes

    return one_round


def coordinator(url: str, clients: int, size_bytes: int) -> Round:
    """Take in all updates, acknowledge them, then publish a model."""
    raw, count = _connected(url, UPDATE_QUEUE, ack=True)
    letters = _letters(MODEL_EXCHANGE, "", size_bytes, persistent=False)

    def one_round() -> None:
        while count.bytes < clients * size_bytes:
            raw.take()
        count.bytes = 0
        raw.acknowledge(count.tag)
        for letter in letters:
            raw.queue(letter)
        raw.flush()
        while raw.unconfirmed:
            raw.take()

    return one_round


def spoke(address: tuple[str, int], size_bytes: int) -> Round:
    """Send an update, then take in a model."""
    connection = socket.create_connection(address)
    data = memoryview(bytearray(size_bytes))

    def one_round() -> None:
        connection.sendall(data)
        _take_in(connection, data)

    return one_round


def hub(server: socket.socket, clients: int, size_bytes: int) -> Round:
    """Take in every client's update, then send a model to each."""
    connections = [server.accept()[0] for _ in range(clients)]
    data = memoryview(bytearray(size_bytes))

    def one_round() -> None:
        for connection in connections:
            _take_in(connection, data)
        for connection in connections:
            connection.sendall(data)

    return one_round


class _Count:
    """Bytes of the bodies that came, and the last one's delivery tag."""

    def __init__(self) -> None:
        self.bytes = self.tag = 0

    def add(self, tag: int, body: memoryview) -> None:
        self.bytes += len(body)
        self.tag = tag


def _connected(url: str, queue: str, *, ack: bool) -> tuple[RawConnection, _Count]:
    raw, count = RawConnection(url, timeout_s=ROUND_TIMEOUT_S), _Count()
    raw.on_body = count.add
    raw.confirm()
    raw.consume(queue, ack=ack)
    return raw, count


def _letters(exchange: str, key: str, size_bytes: int, *, persistent: bool) -> list[list[Piece]]:
    """A buffer of ``size_bytes`` as messages of a chunk each, laid out once for all rounds."""
    data, told = memoryview(bytearray(size_bytes)), properties(persistent=persistent)
    return [
        list(message(CHANNEL, exchange, key, told, [data[at : at + CHUNK_BYTES]]))
        for at in range(0, size_bytes, CHUNK_BYTES)
    ]


def _take_in(connection: socket.socket, data: memoryview) -> None:
    filled = 0
    while filled < len(data):
        count = connection.recv_into(data[filled:])
        if not count:
            raise ConnectionError("the other side hung up")
        filled += count


def main(argv: Sequence[str] | None = None) -> int:
    """Print the limits of the cases."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--cases", type=parse_cases, default=parse_cases(CASES))
    flags.add_argument("--rounds", type=int, default=ROUNDS)
    given = flags.parse_args(argv)
    prepare()
    for case in given.cases:
        found = {BROKER_LIMIT: through_broker(case, given.rounds)}
        found[f"{BROKER_LIMIT}, TLS"] = through_broker(case, given.rounds, "tls")
        found[LOOPBACK_LIMIT] = over_loopback(case, given.rounds)
        for name, seconds in found.items():
            low, high = min(seconds), max(seconds)
            print(f"{case}: {name} {median(seconds):.4f} s ({low:.4f} – {high:.4f})")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
