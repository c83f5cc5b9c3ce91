"""How a model's tensors lie in one contiguous buffer, and weights as views of such a buffer."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Final

import msgpack
import numpy as np
import numpy.typing as npt

from shared.errors import ConfigError

Array = npt.NDArray[Any]
Buffer = npt.NDArray[np.uint8]

DTYPES: Final = ("float32", "float64")
CONTROL: Final = "control/"  # names of SCAFFOLD's control variates, which lie behind the weights
ALIGNMENT: Final = 8  # bytes; no tensor starts inside another's word, so no view is ever unaligned


def bytes_of(buffer: Buffer) -> memoryview:
    """The buffer's bytes, not copied."""
    return memoryview(buffer)  # type: ignore[arg-type]  # numpy's stubs predate PEP 688


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of the tensor table: a name, a shape, and one of ``DTYPES``."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        """Bytes of this tensor alone, without padding."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes ``start`` to ``stop`` of the buffer, all of one dtype: what arithmetic works on."""

    dtype: str
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """The tensor table of a model. Two models federate if and only if their layouts are equal."""

    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, arrays: Sequence[Array], names: Sequence[str] | None = None) -> "Layout":
        """Layout of ``arrays`` in their order; unnamed tensors are called ``0``, ``1``, …"""
        if not arrays:
            raise ConfigError("the model has no weights: build it before it joins a federation")
        names = names or [str(number) for number in range(len(arrays))]
        for name, array in zip(names, arrays, strict=True):
            if str(array.dtype) not in DTYPES:
                raise ConfigError(
                    f"tensor {name} is {array.dtype}; only {' and '.join(DTYPES)} weights federate:"
                    " cast it, or leave it out of get_weights()"
                )
        return cls(
            tuple(
                Tensor(name, tuple(map(int, array.shape)), str(array.dtype))
                for name, array in zip(names, arrays, strict=True)
            )
        )

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Byte offset of each tensor."""
        starts, end = [], 0
        for tensor in self.tensors:
            starts.append(end)
            end += -(-tensor.size_bytes // ALIGNMENT) * ALIGNMENT
        return tuple(starts)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of the whole buffer, padding included."""
        last = self.tensors[-1].size_bytes
        return self.offsets[-1] + -(-last // ALIGNMENT) * ALIGNMENT

    @cached_property
    def controls_start(self) -> int:
        """Byte at which the control variates begin; the end if there are none."""
        for tensor, start in zip(self.tensors, self.offsets, strict=True):
            if tensor.name.startswith(CONTROL):
                return start
        return self.size_bytes

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Neighbouring tensors of one dtype as one run; nearly every model is a single run."""
        found: list[Run] = []
        ends = (*self.offsets[1:], self.size_bytes)
        for tensor, start, end in zip(self.tensors, self.offsets, ends, strict=True):
            if found and found[-1].dtype == tensor.dtype:
                found[-1] = Run(tensor.dtype, found[-1].start, end)
            else:
                found.append(Run(tensor.dtype, start, end))
        return tuple(found)

    @cached_property
    def digest(self) -> str:
        """Short fingerprint of shapes and dtypes (names may differ between frameworks)."""
        table = [[list(tensor.shape), tensor.dtype] for tensor in self.tensors]
        return hashlib.sha256(msgpack.packb(table)).hexdigest()[:16]

    def difference(self, other: "Layout") -> str | None:
        """What first tells ``other`` apart from this layout, in words; None if they federate."""
        for number, (ours, theirs) in enumerate(zip(self.tensors, other.tensors, strict=False)):
            if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
                return f"tensor {number} is {theirs}, expected {ours}"
        if len(self.tensors) != len(other.tensors):
            return f"{len(other.tensors)} tensors, expected {len(self.tensors)}"
        return None


class Weights(list[Array]):
    """A list of arrays that are views of one contiguous ``buffer`` (uint8, ``layout.size_bytes``).

    To a user it is what ``model.get_weights()`` returns; to the wire and the fold it is one block
    of memory that is never copied tensor by tensor.
    """

    def __init__(self, layout: Layout, buffer: Buffer) -> None:
        self.layout = layout
        self.buffer = buffer
        super().__init__(
            buffer[start : start + tensor.size_bytes].view(tensor.dtype).reshape(tensor.shape)
            for tensor, start in zip(layout.tensors, layout.offsets, strict=True)
        )

    @classmethod
    def empty(cls, layout: Layout) -> "Weights":
        """Zeros in the given layout."""
        return cls(layout, np.zeros(layout.size_bytes, np.uint8))

    @classmethod
    def uninitialized(cls, layout: Layout) -> "Weights":
        """Memory in the given layout for a caller who writes every tensor; the padding is zero."""
        buffer = np.empty(layout.size_bytes, np.uint8)
        ends = (*layout.offsets[1:], layout.size_bytes)
        for tensor, start, end in zip(layout.tensors, layout.offsets, ends, strict=True):
            buffer[start + tensor.size_bytes : end] = 0  # chance bytes would be added up as numbers
        return cls(layout, buffer)

    @classmethod
    def of(cls, arrays: Iterable[Array], layout: Layout | None = None) -> "Weights":
        """``arrays`` themselves if they are Weights already, else a packed copy of them.

        Raises ConfigError if they do not fit ``layout``.
        """
        if not isinstance(arrays, Weights):
            arrays = [np.asarray(array) for array in arrays]
            found = Layout.of(arrays)
        else:
            found = arrays.layout
        if layout is not None and (difference := layout.difference(found)):
            raise ConfigError(f"these weights do not fit the model: {difference}")
        if isinstance(arrays, Weights):
            return arrays
        packed = cls.uninitialized(layout or found)
        for target, array in zip(packed, arrays, strict=True):
            np.copyto(target, array)
        return packed

    def runs(self, buffer: Buffer | None = None) -> list[Array]:
        """The buffer as one flat array per dtype run."""
        block = self.buffer if buffer is None else buffer
        return [block[run.start : run.stop].view(run.dtype) for run in self.layout.runs]
