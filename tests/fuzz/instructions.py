"""A byte string as instructions: which message, and what is wrong with it."""

from typing import Any, Final

import msgpack

from warren_shared.protocol.codec import BIN32, NIL

VALUES: Final = (
    0, 1, -1, 2**31, 2**53, 2**64 - 1, 0.5, float("nan"), float("inf"), "", "alfa", None, [], {},
    b"x", True, [[]], {"a": 1}, "\x00", msgpack.Timestamp(1), msgpack.ExtType(1, b"x"),
)  # fmt: skip


class Instructions:
    """Numbers out of a byte string; zeros when it ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def below(self, count: int) -> int:
        byte = self._data[self._at] if self else 0
        self._at += 1
        return byte % count

    def rest(self) -> bytes:
        """All that is left."""
        return self.bytes(max(0, len(self._data) - self._at))

    def bytes(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def text(self, most: int) -> str:
        return self.bytes(self.below(most)).decode("latin-1")

    def value(self, depth: int = 0) -> Any:
        """Anything that msgpack can say."""
        match self.below(6):
            case 0 if depth < 4:
                return [self.value(depth + 1) for _ in range(self.below(5))]
            case 1 if depth < 4:
                return {self.text(4): self.value(depth + 1) for _ in range(self.below(5))}
            case 2:
                return self.text(20)
            case 3:
                return int.from_bytes(self.bytes(self.below(9)), "big")
            case _:
                return VALUES[self.below(len(VALUES))]


def packed(header: Any, data: bytes = b"") -> bytes:
    """A body with any header."""
    text: bytes = msgpack.packb(header)
    if not data:
        return text
    start = BIN32 + len(data).to_bytes(4, "big")
    return text + NIL * (-(len(text) + len(start)) % 16) + start + data
