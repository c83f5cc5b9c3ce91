"""A model's change as integers modulo 2^16 or 2^32, so that masks and sums of it are exact.

In the ring of 2^32 an integer stands for one parameter. In that of 2^16 there is room for few
levels, and a bound on a whole vector says little of one parameter; so the vector is rotated first,
by blocks of 1,024 that are drawn from all over it, as codes of one bit are
(`warren_shared.tensors.compression`), and what is rounded are values that are all about as large.
The rotation is the same for all updates of a run, since their sum has to be rotated back.

A sum whose parts are multiplied by several weights tells more than the sum: of 2 X + y it is known
whether y is even. So where weights differ a uniform number below the largest of them is added to
each integer, which makes what is told uniform; weights are powers of two.
"""

import secrets
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from warren_shared.errors import Rejected
from warren_shared.tensors.compression import BLOCK, TOGETHER, Rotation
from warren_shared.tensors.layout import Layout, Weights

Ring = npt.NDArray[Any]

RINGS: Final = (16, 32)
PIECE: Final = 1 << 16  # parameters at once: they stay in the cache
# Deviations that a rotated value has room for; one in 30,000 is beyond, and is cut off.
ROTATED_DEVIATIONS: Final = 4.0

_TYPES: Final[dict[int, Any]] = {16: np.uint16, 32: np.uint32}
_SIGNED: Final[dict[int, Any]] = {16: np.int16, 32: np.int32}


def dtype_of(ring: int) -> Any:
    """What a sum modulo 2^``ring`` is kept in."""
    return _TYPES[ring]


def encoding_of(ring: int) -> str:
    """What an update in it is called on the wire."""
    return f"ring{ring}"


def limb_bits(ring: int, updates: int, weight: int) -> int:
    """Bits of an integer of which ``updates``, each times ``weight`` at most, still add up."""
    return ring - 1 - (updates * weight - 1).bit_length()


def largest_scale(layout: Layout, ring: int, clip: float, limb: int, weight: int) -> float:
    """Steps for 1.0 with which a vector of norm ``clip`` has room in ``limb`` bits.

    It is a power of two, by which no float32 rounds.
    """
    most = 2.0**limb - 2 * weight
    bound = clip if ring == 32 else min(clip, ROTATED_DEVIATIONS * clip / sqrt(_size(layout)))
    return float(2.0 ** np.floor(np.log2(most / bound)))


def elements(layout: Layout, ring: int) -> int:
    """How many integers a vector of ``layout`` has.

    Raises:
        Rejected: it has statistics, which have no bound.
    """
    if layout.has_statistics:
        raise Rejected("layout", "a model with statistics cannot be masked: they have no bound")
    size = _size(layout)
    return size if ring == 32 else -(-size // BLOCK) * BLOCK


def _size(layout: Layout) -> int:
    """Parameters and padding."""
    return sum((run.stop - run.start) // np.dtype(run.dtype).itemsize for run in layout.runs)


@dataclass(frozen=True)
class RingCode:
    """How vectors of ``layout`` become integers: ``scale`` steps for 1.0, ``limb`` bits of each.

    ``rotation`` names the rotation of a ring of 2^16; ``weight`` is the largest of the weights that
    sums are made with.
    """

    layout: Layout
    ring: int
    scale: float
    limb: int
    rotation: str
    weight: int = 1

    @property
    def elements(self) -> int:
        """How many integers there are."""
        return elements(self.layout, self.ring)

    def encode(self, delta: Weights, factor: float, into: Ring) -> int:
        """Write ``factor`` (at most 1) times ``delta`` as integers; return how many were cut off.

        ``into`` has shape (elements,). Rounds to nearest; in the ring of 2^16, of which the steps
        are coarse, up or down by lot, so that the mean is right.

        Raises:
            Rejected: ``not-finite``.
        """
        most = 2**self.limb - 1 - self.weight
        cut = 0
        signed = into.view(_SIGNED[self.ring])
        pieces = self._rotated(delta) if self.ring == 16 else self._pieces(delta)
        at = 0
        for values in pieces:
            scaled = values * np.asarray(self.scale * factor, values.dtype)
            if self.ring == 16:
                scaled += np.random.default_rng().random(scaled.size, np.float32)
                np.floor(scaled, out=scaled)
            else:
                np.rint(scaled, out=scaled)
            with np.errstate(invalid="ignore"):
                beyond = int(np.count_nonzero(~(np.abs(scaled) <= most)))
            if beyond:
                if not np.isfinite(scaled).all():
                    raise Rejected("not-finite", "an update that is not finite cannot be masked")
                cut += beyond
                np.clip(scaled, -most, most, out=scaled)
            here = signed[at : at + scaled.size]
            np.copyto(here, scaled, casting="unsafe")
            if self.weight > 1:
                here += self._dither(scaled.size).astype(here.dtype)
            at += scaled.size
        return cut

    def _dither(self, size: int) -> npt.NDArray[np.uint8]:
        return np.frombuffer(secrets.token_bytes(size), np.uint8) & np.uint8(self.weight - 1)

    def decode(self, total: Ring, weights: int, divisor: float, into: Weights) -> None:
        """Write what the sum ``total`` stands for, over ``divisor``.

        The weights of its updates come to ``weights``.
        """
        signed = total.view(_SIGNED[self.ring])
        offset = weights * (self.weight - 1) / 2  # what the dithers come to, in the mean
        value = 1.0 / self.scale / divisor
        if self.ring == 16:
            self._rotated_back(signed, offset, value, into)
            return
        at = 0
        for run in self.layout.runs:
            target = into.buffer[run.start : run.stop].view(run.dtype)
            for first in range(0, target.size, PIECE):
                here = target[first : first + PIECE]
                exact = signed[at : at + here.size].astype(np.float64)
                exact -= offset
                np.multiply(exact, value, out=here, casting="same_kind")
                at += here.size

    def _pieces(self, delta: Weights) -> Any:
        for run in self.layout.runs:
            values = delta.buffer[run.start : run.stop].view(run.dtype)
            for first in range(0, values.size, PIECE):
                yield values[first : first + PIECE]

    # --- rotated --------------------------------------------------------------------------------

    def _rotated(self, delta: Weights) -> Any:
        table = np.zeros((BLOCK, self.elements // BLOCK), np.float32)
        flat, at = table.reshape(-1), 0
        for values in self._pieces(delta):
            flat[at : at + values.size] = values
            at += values.size
        rotation = Rotation(self.rotation)
        for block, columns in _groups(table):
            yield rotation.forth_once(np.ascontiguousarray(columns.T), block).reshape(-1)

    def _rotated_back(self, signed: Ring, offset: float, value: float, into: Weights) -> None:
        table = np.empty((BLOCK, self.elements // BLOCK), np.float32)
        rotation = Rotation(self.rotation)
        for block, columns in _groups(table):
            count = columns.shape[1]
            exact = signed[block * BLOCK : (block + count) * BLOCK].astype(np.float64) - offset
            back = (exact * value).astype(np.float32).reshape(count, BLOCK)
            columns[:] = rotation.back_once(back, block).T
        flat, at = table.reshape(-1), 0
        for run in self.layout.runs:
            target = into.buffer[run.start : run.stop].view(run.dtype)
            target[:] = flat[at : at + target.size]
            at += target.size


def _groups(table: npt.NDArray[np.float32]) -> Any:
    """The number of its first block, and the columns of ``table``, for each group of blocks."""
    for first in range(0, table.shape[1], TOGETHER):
        yield first, table[:, first : first + TOGETHER]


# --- integers of any size ---------------------------------------------------------------------


def limbs(bits: int, limb: int) -> int:
    """How many limbs of ``limb`` bits an integer of ``bits`` bits takes."""
    return -(-bits // limb)


def to_limbs(value: int, bits: int, limb: int) -> list[int]:
    """``value``, 0 or more, in limbs, the lowest first.

    Raises:
        ValueError: it has more than ``bits`` bits.
    """
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{value} has more than {bits} bits")
    mask = (1 << limb) - 1
    return [value >> (limb * place) & mask for place in range(limbs(bits, limb))]


def from_limbs(sums: Ring, limb: int) -> int:
    """The integer that sums of limbs come to."""
    return sum(int(one) << (limb * place) for place, one in enumerate(sums))
