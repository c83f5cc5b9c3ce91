"""What an enrolled client, a fleet and a watcher may try against a federation that goes on.

Each act is real bytes from a real login: through plain pika, or written straight into its socket
where pika would refuse to send them. ``docs/security.md`` has them as a table, which
``test_withstood`` compares with `markdown`.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack
import pika
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pika import exceptions, spec
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import FLEET, Place
from tests.support.hostile import TIMESTAMP, Raw, deep, nested, raw_headers
from warren_shared.protocol.encryption import UpdateEncryptor
from warren_shared.tensors.layout import Weights

MIB: Final = 1 << 20
MANY: Final = 500  # messages of an act that repeats itself
ESCAPES: Final = "\x1b]0;owned\x07\x1b[2J\x1b[31mFAKE\n20:00:00 version 99 is published\r\u202edne"


@dataclass
class Hostile:
    """Whoever holds the login of ``user``; ``version`` and ``weights`` are the newest model's."""

    place: Place
    user: str
    run: str
    version: int
    weights: Weights
    _ids: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 20)))

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A channel of a connection of its own."""
        parameters = pika.URLParameters(self.place.urls[self.user])
        parameters.socket_timeout = parameters.blocked_connection_timeout = 20.0
        connection = pika.BlockingConnection(parameters)
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()

    def send(self, *bodies: bytes, **properties: Any) -> None:
        """Publish where updates go, as fast as pika does."""
        told = pika.BasicProperties(user_id=self.user, **properties)
        with self.channel() as channel, raw_headers():
            for body in bodies:
                channel.basic_publish("update", "update", body, told)
            # Answered when the queue has them all, so what the honest send comes behind.
            channel.queue_declare("update", passive=True)

    def header(self, kind: str, **claims: Any) -> dict[str, Any]:
        """A message's header, as it should be but for ``claims``."""
        told: dict[str, Any] = {"protocol": 3, "kind": kind}
        told |= {"federation": self.place.name, "client": self.user}
        if kind in ("update", "initial"):
            told |= {"transfer": self.transfer(), "digest": 0}
            told |= {"size_bytes": self.weights.layout.size_bytes}
        if kind == "update":
            told |= {"run": self.run, "base_version": self.version, "num_examples": 1}
            told |= {"layout": self.weights.layout.digest}
        if kind == "initial":
            told |= {"tensors": [{"name": "w", "shape": [2], "dtype": "float32"}]}
        return {name: value for name, value in (told | claims).items() if value is not GONE}

    def transfer(self) -> str:
        """An id that no other transfer has."""
        return f"{next(self._ids):016x}"

    def whole(self, **claims: Any) -> list[bytes]:
        """All messages of an update of zeros."""
        size = self.weights.layout.size_bytes
        transfer = self.transfer()
        zeros = {"transfer": transfer, "digest": DIGEST_OF_ZEROS(size)}
        found = [body(self.header("update", **(zeros | claims)), bytes(MIB))]
        for index, start in enumerate(range(MIB, size, MIB), start=1):
            found.append(body(chunk(transfer, index), bytes(min(MIB, size - start))))
        return found

    def publish_raw(self, flags: int, properties: bytes, body: bytes) -> None:
        """Publish ``body`` with properties as they travel."""
        with self.channel() as channel:
            sock = channel.connection._impl._transport._sock
            sock.setblocking(True)
            sock.sendall(PUBLISH + content(len(body), flags, properties) + method(body, 3))
            sock.setblocking(False)
            channel.queue_declare("update", passive=True)

    def raw(self, *frames: bytes) -> None:
        """Write ``frames`` into the socket of a channel, and leave without a word."""
        parameters = pika.URLParameters(self.place.urls[self.user])
        connection = pika.BlockingConnection(parameters)
        connection.channel()
        transport = connection._impl._transport
        for frame in frames:
            transport._sock.setblocking(True)
            with suppress(OSError):
                transport._sock.sendall(frame)
        transport._sock.close()
        with suppress(Exception):
            connection._impl.ioloop.close()


GONE: Final = object()  # a field that is left out


def DIGEST_OF_ZEROS(size: int) -> int:
    """XXH3 of ``size`` zero bytes."""
    from xxhash import xxh3_64

    return xxh3_64(bytes(size)).intdigest()


def body(header: object, data: bytes = b"") -> bytes:
    """A message body, whatever its header is."""
    packed = bytes(msgpack.packb(header))
    return packed + (b"\xc6" + struct.pack(">I", len(data)) + data if data else b"")


def chunk(transfer: str, index: int) -> dict[str, Any]:
    """The header of a chunk."""
    return {"protocol": 1, "kind": "chunk", "transfer": transfer, "index": index}


def method(payload: bytes, kind: int = spec.FRAME_METHOD, channel: int = 1) -> bytes:
    """A frame."""
    return struct.pack(">BHL", kind, channel, len(payload)) + payload + bytes([spec.FRAME_END])


PUBLISH: Final = method(struct.pack(">HHH", 60, 40, 0) + b"\x06update\x06update\x00")


def content(size: int, flags: int, properties: bytes) -> bytes:
    """A content header frame."""
    return method(struct.pack(">HHQH", 60, 0, size, flags) + properties, spec.FRAME_HEADER)


@dataclass(frozen=True)
class Bound:
    """What an act may make grow; ``holds(before, after)`` compares two `scene.Seen`."""

    words: str
    holds: Callable[[Any, Any], bool]


NOTHING: Final = Bound("nothing", lambda a, b: b.letters == a.letters and b.members == a.members)
LETTER: Final = Bound("one rejected message", lambda a, b: b.letters <= a.letters + 1)
LETTERS: Final = Bound(
    "50 rejected messages, then one a second",
    lambda a, b: b.letters <= a.letters + 51 + b.time - a.time,
)
MEMBER: Final = Bound("its entry in the roster", lambda a, b: b.letters == a.letters)
TRANSFER: Final = Bound(
    "one transfer of a client", lambda _a, b: b.staged <= 4 * b.model_bytes + 4 * MIB
)
TRANSFERS: Final = Bound(
    "one transfer of a replica",
    lambda _a, b: b.staged <= (FLEET.size + 4) * b.model_bytes + 4 * MIB,
)
NAMES: Final = Bound("128 names in a round's record", lambda _a, b: b.names <= 128)
QUEUE: Final = Bound("8,192 messages in `update`", lambda a, b: b.letters <= a.letters + 52)
BROKER: Final = Bound("8 connections, 32 channels", lambda a, b: b.letters == a.letters)
MAILBOX: Final = Bound("its mailbox: one model, 8 notices", lambda a, b: b.letters == a.letters)
EVENTS: Final = Bound("64 MiB in each of its queues", lambda a, b: b.letters == a.letters)


@dataclass(frozen=True)
class Act:
    """``does`` is done by ``user``; the next round has rejected something for ``reason``.

    An empty reason: nothing is rejected. None: it depends on how far it came.
    """

    name: str
    reason: str | None
    bound: Bound
    does: Callable[[Hostile], object]
    user: str = "alfa"


def _says(make: Callable[[Hostile], object], **properties: Any) -> Callable[[Hostile], object]:
    return lambda hostile: hostile.send(body(make(hostile)), **properties)


def _bytes(made: bytes, **properties: Any) -> Callable[[Hostile], object]:
    return lambda hostile: hostile.send(made, **properties)


def _claims(kind: str, **claims: Any) -> Callable[[Hostile], object]:
    data = bytes(MIB) if kind == "update" else b""
    return lambda hostile: hostile.send(body(hostile.header(kind, **claims), data))


def _joins(**properties: Any) -> Callable[[Hostile], object]:
    return _says(lambda hostile: hostile.header("join"), **properties)


def _update(**claims: Any) -> Callable[[Hostile], object]:
    return lambda hostile: hostile.send(*hostile.whole(**claims))


def _sealed(hostile: Hostile, inner: bytes) -> bytes:
    sealer = UpdateEncryptor(
        X25519PrivateKey.generate().public_key(), hostile.place.name, hostile.user
    )
    return b"".join(sealer.seal((inner,)))


def _out_of_order(hostile: Hostile) -> None:
    bodies = hostile.whole()
    hostile.send(bodies[0], *bodies[2:])


def _twice(hostile: Hostile) -> None:
    bodies = hostile.whole()
    hostile.send(*bodies, *bodies)


def _begins_again_and_again(hostile: Hostile) -> None:
    hostile.send(*(hostile.whole()[0] for _ in range(20)))


def _another_transfer_id(hostile: Hostile) -> None:
    """Chunks under the ids of others, whatever these are."""
    hostile.send(*(body(chunk(f"{n:08x}{n:08x}", 1), bytes(100)) for n in range(1, MANY)))


def _spoilt(value: float) -> Callable[[Hostile], object]:
    def act(hostile: Hostile) -> None:
        from xxhash import xxh3_64

        size = hostile.weights.layout.size_bytes
        data = bytes(size - 4) + struct.pack("<f", value)
        transfer = hostile.transfer()
        told = {"transfer": transfer, "digest": xxh3_64(data).intdigest()}
        found = [body(hostile.header("update", **told), data[:MIB])]
        for index, start in enumerate(range(MIB, size, MIB), start=1):
            found.append(body(chunk(transfer, index), data[start : start + MIB]))
        hostile.send(*found)

    return act


def _evaluates(**entry: Any) -> Callable[[Hostile], object]:
    return _update(evaluation={"num_examples": 10_000_000, **entry})


def _as_replicas(numbers: Iterable[int], kind: str = "join") -> Callable[[Hostile], object]:
    def act(hostile: Hostile) -> None:
        data = bytes(MIB) if kind == "update" else b""
        hostile.send(
            *(body(hostile.header(kind, client=f"{hostile.user}.{n}"), data) for n in numbers)
        )

    return act


def _more_flags(hostile: Hostile) -> None:
    """For who reads more flags where the broker sees none, the sender is bravo."""
    told = b"\x08" + b"\x02\x00\x05bravo" + b"\x04alfa"
    hostile.publish_raw(0x8000 | 0x10 | 1, told, body(hostile.header("join", client="bravo")))


def _many_connections(hostile: Hostile) -> None:
    parameters = pika.URLParameters(hostile.place.urls[hostile.user])
    held = []
    try:
        with suppress(exceptions.AMQPError):
            for _ in range(20):
                held.append(pika.BlockingConnection(parameters))
                for _ in range(3):
                    held[-1].channel()
    finally:
        for connection in held:
            connection.close()


def _never_reads(hostile: Hostile) -> None:
    with hostile.channel() as channel:
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(f"model.{hostile.user}", lambda *_: None)
        for _ in range(30):
            channel.basic_publish(
                "update", "update", body(hostile.header("join")),
                pika.BasicProperties(user_id=hostile.user),
            )  # fmt: skip


def _asks_for_queues(hostile: Hostile) -> None:
    with hostile.channel() as channel:
        for _ in range(200):
            channel.queue_declare("update", passive=True)


def _takes_the_last_word(hostile: Hostile) -> None:
    with hostile.channel() as channel:
        channel.basic_get("event.state", auto_ack=True)


def _follows_and_never_reads(hostile: Hostile) -> None:
    with hostile.channel() as channel:
        for _ in range(20):
            made = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(made, "event", "#")


def _publishes_as_watcher(hostile: Hostile) -> None:
    with suppress(exceptions.AMQPError):
        hostile.send(b"forged")


FIELDS: Final = {f"f{n}": n for n in range(60_000)}
_TEXTS: Final = (
    *("content_type", "content_encoding", "correlation_id", "reply_to", "message_id", "type"),
    *("app_id", "cluster_id"),
)
LONGEST: Final[Mapping[str, Any]] = dict.fromkeys(_TEXTS, "\x7f" * 255)
CUT: Final = b"\xc6\xff\xff\xff\xff1234"
JUNK: Final = {f"junk{n}": float(n) for n in range(64)}
TIB: Final = {
    "size_bytes": 1 << 40,
    "tensors": [{"name": "w", "shape": [1 << 38], "dtype": "float32"}],
}

ACTS: Final[dict[str, tuple[Act, ...]]] = {
    "An enrolled client: message properties": (
        Act("a time stamp out of range", "malformed", LETTER, _joins(headers={"x": TIMESTAMP})),
        Act("tables in tables, 1,500 deep", "malformed", LETTER,
            _joins(headers={"x": nested(1500)})),
        Act("a header that is not text", "", MEMBER, _joins(headers={"x": Raw(
            b"S\0\0\0\x04\xff\xfe\x80\x00")})),
        Act("a header that says it reads a protocol of ten thousand letters", "", MEMBER,
            _joins(headers={"protocol": "x" * 10_000})),
        Act("forged marks of a dead letter", "malformed", LETTER,
            _bytes(b"x", headers={"x-death": [{"queue": ESCAPES}], "reason": "none"})),
        Act("each property at its maximum length", "", MEMBER, _joins(**LONGEST)),
        Act("CC and BCC to the rejected, the events and all mailboxes", "", MEMBER,
            _joins(headers={"CC": ["update.rejected", "event"], "BCC": ["model.bravo", "model"]})),
        Act("a time to live of one millisecond", None, LETTER, _bytes(b"x", expiration="1")),
        Act("the highest priority, and not persistent", "", MEMBER,
            _joins(priority=255, delivery_mode=1)),
        Act("flags that make a reader find another sender", "identity", LETTER, _more_flags),
        Act("properties that are cut off", "", NOTHING,
            lambda hostile: hostile.raw(PUBLISH, content(4, 0x8000, b"\xff"))),
        Act("half a message, and then nothing", "", NOTHING,
            lambda hostile: hostile.raw(PUBLISH, content(1 << 20, 0, b""), method(b"half", 3))),
        Act("frames of an unknown type", "", NOTHING,
            lambda hostile: hostile.raw(method(b"\xff" * 100, 77))),
        Act("bytes that are not frames", "", NOTHING, lambda hostile: hostile.raw(b"\0" * 4096)),
    ),
    "Message bodies": (
        Act("nothing at all", "malformed", LETTER, _bytes(b"")),
        Act("bytes that are not msgpack", "malformed", LETTER, _bytes(b"\xc1" * 100)),
        Act("16 MiB of them, the most that the broker accepts", "malformed", LETTER,
            _bytes(b"\xc1" * (16 * MIB))),
        Act("lists in lists for a protocol, 900 deep", "protocol", LETTER,
            _says(lambda hostile: hostile.header("join", protocol=deep(900)))),
        Act("lists in lists in a field", "malformed", LETTER,
            _says(lambda hostile: hostile.header("join", fixed_state={"a": deep(900)}))),
        Act("a header of 60,000 fields", "malformed", LETTER,
            _says(lambda hostile: hostile.header("join") | FIELDS)),
        Act("a MiB of nils after the header", "malformed", LETTER,
            lambda hostile: hostile.send(body(hostile.header("join")) + b"\xc0" * MIB)),
        Act("a bin of 4 GiB announced, and four bytes", "malformed", LETTER,
            lambda hostile: hostile.send(body(hostile.header("update")) + CUT)),
        Act("numbers instead of names", "malformed", LETTER,
            _says(lambda hostile: hostile.header("join") | {7: 1})),
        Act("a kind, a field and a name that are escape sequences", "malformed", LETTER,
            _says(lambda hostile: hostile.header(ESCAPES) | {ESCAPES: 1})),
        Act("a number for a text", "malformed", LETTER, _claims("join", client=7)),
        Act("a protocol of the future", "protocol", LETTER, _claims("join", protocol=1 << 62)),
        Act("a model", "malformed", LETTER, _claims("model")),
        Act("what only a coordinator may send", "malformed", LETTER,
            _bytes(body({"protocol": 1, "kind": "probe"}))),
        Act("an update sealed to somebody else", "sealed", LETTER,
            lambda hostile: hostile.send(_sealed(hostile, hostile.whole()[0]))),
        Act("a MiB of zeros, marked as sealed", "sealed", LETTER,
            _bytes(body({"protocol": 2, "kind": "sealed", "key": "ab" * 8}, bytes(MIB)))),
    ),
    "False claims": (
        Act("another client's name", "identity", LETTER, _claims("update", client="bravo")),
        Act("the name of a fleet's replica", "identity", LETTER, _claims("join", client="fleet.0")),
        Act("another federation", "federation", LETTER, _claims("update", federation="other")),
        Act("another run", "run", LETTER, _claims("update", run="cd" * 4)),
        Act("another layout", "layout", LETTER, _claims("update", layout="cd" * 8)),
        Act("version 2^53", "future", LETTER, _claims("update", base_version=1 << 53)),
        Act("2^40 examples", "examples", LETTER, _claims("update", num_examples=1 << 40)),
        Act("2^60 bytes", "malformed", LETTER, _claims("update", size_bytes=1 << 60)),
        Act("a TiB", "layout", LETTER, _claims("update", size_bytes=1 << 40)),
    ),
    "Transfers": (
        Act("chunks in another order", "chunk", LETTER, _out_of_order),
        Act("bytes that are not those announced", "digest", LETTER, _update(digest=7)),
        Act("NaN", "not-finite", LETTER, _spoilt(float("nan"))),
        Act("10^12", "norm", LETTER, _spoilt(1e12)),
        Act("the beginning of an update, and no more", "", TRANSFER,
            lambda hostile: hostile.send(hostile.whole()[0])),
        Act("the beginning of 20 updates", "", TRANSFER, _begins_again_and_again),
        Act("500 chunks of no announced transfer", "", NOTHING, _another_transfer_id),
        Act("the same update twice", "", NOTHING, _twice),
        Act("initial weights, to a run that has a model", "unasked", LETTER, _claims("initial",
            size_bytes=8)),
        Act("a TiB of initial weights", "unasked", LETTER, _claims("initial", **TIB)),
        Act("initial weights whose tensors do not make their size", "layout", LETTER,
            _claims("initial", size_bytes=9)),
    ),
    "Metrics and failures": (
        Act("that the target is met, on ten million examples", "", NAMES,
            _evaluates(means={"loss": 0.0})),
        Act("a metric of -10^100", "", NAMES, _evaluates(means={"loss": -1e100})),
        Act("a loss of 1.7e308", "malformed", LETTER, _evaluates(means={"loss": 1.7e308})),
        Act("that it could not be computed", "", NAMES, _evaluates(not_finite=["loss"])),
        Act("a table of other classes", "", NAMES, _evaluates(confusion=[[1] * 9] * 9)),
        Act("a table of more examples than there are", "malformed", LETTER,
            _evaluates(confusion=[[1 << 40, 0], [0, 0]])),
        Act("64 metrics that no other client has", "", NAMES, _update(metrics=JUNK)),
        Act("a metric whose name is an escape sequence", "malformed", LETTER,
            _update(metrics={ESCAPES: 1.0})),
        Act("an evaluation of a version that is not the last", "", NOTHING,
            _says(lambda hostile: hostile.header("evaluated", run=hostile.run, version=0,
                                                 evaluation={"num_examples": 1}))),
        Act("a failure whose text is escape sequences", "malformed", LETTER,
            _claims("failed", reason=ESCAPES[:200])),
    ),
    "Floods": (
        Act("500 joins", "flood", LETTERS,
            lambda hostile: hostile.send(*[body(hostile.header("join"))] * MANY), "charlie"),
        Act("500 failures", "flood", LETTERS,
            lambda hostile: hostile.send(*[body(hostile.header("failed", reason="x"))] * MANY),
            "charlie"),
        Act("5,000 times two bytes that are not a message", "malformed", QUEUE,
            lambda hostile: hostile.send(*[b"{}"] * 5_000), "charlie"),
        Act("30 joins, and a mailbox that is never read", None, LETTERS, _never_reads, "charlie"),
        Act("more connections and channels than it may have", "", BROKER, _many_connections,
            "charlie"),
        Act("the length of a queue, queried 200 times", "", BROKER, _asks_for_queues, "charlie"),
    ),
    "A fleet": (
        Act("a replica that it does not have", "identity", LETTER, _as_replicas([3]), "fleet"),
        Act("500 of them", "identity", LETTERS, _as_replicas(range(4, 4 + MANY)), "fleet"),
        Act("replica 999,999", "identity", LETTER, _as_replicas([999_999]), "fleet"),
        Act("its own name, which is not a replica's", "", MEMBER, _claims("join", client="fleet"),
            "fleet"),
        Act("all replicas begin 10 updates and end none", "", TRANSFERS,
            _as_replicas([0, 1, 2] * 10, "update"), "fleet"),
    ),
    "A watcher": (
        Act("takes the snapshot out", "", NOTHING, _takes_the_last_word, "watcher"),
        Act("follows the events with 20 queues and reads none", "", EVENTS,
            _follows_and_never_reads, "watcher"),
        Act("publishes an update", "", NOTHING, _publishes_as_watcher, "watcher"),
    ),
}  # fmt: skip


def markdown() -> str:
    """The table of ``docs/security.md``."""
    lines = ["| attack | rejected as | what may grow |", "| --- | --- | --- |"]
    for heading, acts in ACTS.items():
        lines.append(f"| **{heading}** | | |")
        for act in acts:
            reason = f"`{act.reason}`" if act.reason else "" if act.reason == "" else "or not"
            lines.append(f"| {act.name} | {reason} | {act.bound.words} |")
    return "\n".join(lines)
