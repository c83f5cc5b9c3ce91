"""Where bytes become messages, and the only place where they do: trust stops here.

A body is a sequence of msgpack objects: a header map, then for a transfer's messages as many nils
as align what follows to 16 bytes, then one bin. Header and bin are apart so that the bin can be
used in place: unpacking a map that holds a 1 MiB bin would copy it into fresh pages, which
costs more than folding it.
"""

from math import prod
from typing import Final

import msgpack
from pydantic import ValidationError

from warren_shared.errors import Rejected
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.messages import (
    ANY_MESSAGE,
    MAX_SIZE_BYTES,
    MAX_TENSORS,
    OLDEST,
    PROTOCOL,
    AnyMessage,
    Message,
    ModelManifest,
    Sealed,
    TensorEntry,
)
from warren_shared.tensors.compression import size_bytes as size_bytes_in
from warren_shared.tensors.layout import Layout, Tensor
from warren_shared.tensors.model_change import DOWNLINKS

Piece = bytes | memoryview
Body = tuple[Piece, ...]

NIL: Final = b"\xc0"
BIN32: Final = b"\xc6"
ALIGNMENT: Final = 16
# A table of MAX_TENSORS tensors with names of 128 characters. What comes of it in memory is up to
# 25 times as much: two bytes may be a number, which is an object.
MAX_HEADER_BYTES: Final = 2 << 20
# Maps and lists in a header; one byte may be a map, which is an object of 64.
MAX_CONTAINERS: Final = 2 * MAX_TENSORS + 1_000
# Far more than any map of ours has. pydantic complains of each unknown field by itself: of 60,000
# that took 0.14 s and 44 MiB, and honest updates wait behind it.
MAX_FIELDS: Final = 1_000
MAX_SEALED_BYTES: Final = MAX_HEADER_BYTES + CHUNK_BYTES  # a whole body, encrypted
FIRST_LOOK_BYTES: Final = 512  # a chunk's header is about 70 bytes; a manifest may need more looks
BIN_HEADERS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}  # bytes of length that follow the type byte


def encode(message: Message, data: Piece = b"") -> Body:
    """One message body in pieces: the header, and ``data`` (at most CHUNK_BYTES) if there is any.

    ``data`` is not copied and must not change until the message is confirmed.
    """
    header: bytes = msgpack.packb(message.header())
    if not data:
        return (header,)
    start = BIN32 + len(data).to_bytes(4, "big")
    pad = -(len(header) + len(start)) % ALIGNMENT
    return (header + NIL * pad + start, data)


def decode(body: Piece, reader: str = "this side") -> tuple[AnyMessage, memoryview]:
    """Header and data (a view into ``body``) of one message.

    Raises Rejected(``malformed`` or ``protocol``), in words that call us ``reader``, and nothing
    else; takes no memory beyond the header's own.
    """
    try:
        return _decoded(body, reader)
    except (RecursionError, MemoryError) as error:
        raise Rejected("malformed", f"it cannot be read: {type(error).__name__}") from None


def _decoded(body: Piece, reader: str) -> tuple[AnyMessage, memoryview]:
    header, end = _unpack_header(body)
    protocol = header.pop("protocol", None)
    if type(protocol) is not int or not OLDEST <= protocol <= PROTOCOL:
        raise Rejected("protocol", _unknown_protocol(protocol, reader))
    try:
        message = ANY_MESSAGE.validate_python(header)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Rejected("malformed", f"header field {place}: {first['msg']}"[:300]) from None
    return message, _data(
        body, end, MAX_SEALED_BYTES if isinstance(message, Sealed) else CHUNK_BYTES
    )


def _unknown_protocol(protocol: object, reader: str) -> str:
    # Not the repr of what a stranger sent: of lists in lists that alone ends in RecursionError.
    if type(protocol) is not int:
        kind = type(protocol).__name__
        return f"its protocol is a {kind}, and {reader} reads {OLDEST} to {PROTOCOL}"
    said = f"it is of protocol {protocol}, and {reader} reads {OLDEST} to {PROTOCOL}"
    return f"{said}: upgrade {reader if protocol > PROTOCOL else 'the sender'}"


def kind_of(body: Piece) -> str | None:
    """What a body calls itself, true or not; None if it says nothing that can be read."""
    try:
        kind = _unpack_header(body)[0].get("kind")
    except Rejected:
        return None
    return kind if isinstance(kind, str) else None


class _Containers:
    """Counts a header's maps and lists while it is unpacked."""

    def __init__(self) -> None:
        self._left = MAX_CONTAINERS

    def count(self, container: object) -> object:
        self._left -= 1
        if self._left < 0:
            raise Rejected("malformed", f"the header has more than {MAX_CONTAINERS} parts")
        return container


def _unpack_header(body: Piece) -> tuple[dict[str, object], int]:
    look = FIRST_LOOK_BYTES
    while True:
        count = _Containers().count if look > FIRST_LOOK_BYTES else None  # so few do no harm
        unpacker = msgpack.Unpacker(
            object_hook=count,
            list_hook=count,
            read_size=look,  # the size of its buffer, a MiB unless told
            max_buffer_size=MAX_HEADER_BYTES,
            max_bin_len=0,
            max_ext_len=0,
            max_array_len=MAX_TENSORS,  # an array's place is taken as soon as it is announced
            max_map_len=MAX_FIELDS,
            strict_map_key=True,
        )
        unpacker.feed(memoryview(body)[:look])
        try:
            header = unpacker.unpack()
        except msgpack.OutOfData:
            if look >= min(len(body), MAX_HEADER_BYTES):
                raise Rejected("malformed", "the header is cut short or too long") from None
            look = min(look * 8, MAX_HEADER_BYTES)
            continue
        except (ValueError, msgpack.UnpackException) as error:
            raise Rejected("malformed", f"not msgpack: {error}"[:300]) from None
        if not isinstance(header, dict):
            raise Rejected("malformed", "the header is not a map")
        return header, unpacker.tell()


def _data(body: Piece, start: int, most: int) -> memoryview:
    view = memoryview(body)
    padded = min(len(body), start + ALIGNMENT)  # or megabytes of nils would be read one by one
    while start < padded and body[start] == NIL[0]:
        start += 1
    if start == len(body):
        return view[:0]
    width = BIN_HEADERS.get(body[start])
    if width is None:
        raise Rejected("malformed", "what follows the header is not a bin")
    length = int.from_bytes(body[start + 1 : start + 1 + width], "big")
    data = view[start + 1 + width :]
    if length != len(data) or length > most:
        raise Rejected("malformed", f"a bin of {length} bytes is announced, {len(data)} came")
    return data


def tensor_entries(layout: Layout) -> list[TensorEntry]:
    """The tensor table as it travels in a manifest."""
    return [
        TensorEntry(
            name=tensor.name,
            shape=list(tensor.shape),
            dtype=tensor.dtype,  # type: ignore[arg-type]
            role=tensor.role,
        )
        for tensor in layout.tensors
    ]


def layout_of(entries: list[TensorEntry], size_bytes: int) -> Layout:
    """The layout that a manifest announces; Rejected(``layout``) unless it makes ``size_bytes``."""
    layout = _layout_of(entries)
    if layout.size_bytes != size_bytes:
        raise Rejected("layout", f"the tensors make {layout.size_bytes} bytes, not {size_bytes}")
    return layout


def model_layout(manifest: ModelManifest) -> Layout:
    """The layout of the model that is announced, whole or as a change.

    Raises:
        Rejected: ``layout`` if the transfer has another size than that makes, ``encoding`` if a
            change is in one that is not known here.
    """
    if manifest.base is None:
        return layout_of(manifest.tensors, manifest.size_bytes)
    if manifest.downlink not in DOWNLINKS:
        detail = f"the model's change is in {manifest.downlink}, which is not known: upgrade"
        raise Rejected("encoding", detail)
    layout = _layout_of(manifest.tensors)
    wanted = size_bytes_in(layout, manifest.downlink)
    if manifest.size_bytes != wanted:
        detail = f"a change in {manifest.downlink} has {wanted} bytes, not {manifest.size_bytes}"
        raise Rejected("layout", detail)
    return layout


def _layout_of(entries: list[TensorEntry]) -> Layout:
    for entry in entries:
        # numpy multiplies all sizes but the zeros, and makes no array that would be too big.
        if prod(filter(None, entry.shape)) > MAX_SIZE_BYTES:
            raise Rejected("layout", f"tensor {entry.name} is too large")
    return Layout(tuple(Tensor(e.name, tuple(e.shape), e.dtype, e.role) for e in entries))
