"""How a model's tensors lie in one contiguous buffer, and weights as views of such a buffer.

Each tensor has a *role*. What a model learns by gradient steps is ``trainable``. What it only
measures, such as BatchNormalization's moving mean and variance, is a ``statistic``: it is averaged
and nothing else, since a momentum or a norm of it means nothing, and a variance that an optimizer
moved can be negative. In an update a trainable tensor is a difference; a statistic is the value
itself, so that a late one is still a mean of values that somebody measured.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Final, Literal, TypeVar

import msgpack
import numpy as np
import numpy.typing as npt

from warren_shared.errors import ConfigError

Array = npt.NDArray[Any]
Buffer = npt.NDArray[np.uint8]

T = TypeVar("T")
Role = Literal["trainable", "statistic"]

DTYPES: Final = ("float32", "float64")
TRAINABLE: Final = "trainable"
STATISTIC: Final = "statistic"
# What files and checkpoints without roles call a statistic: Keras, and PyTorch.
STATISTIC_NAMES: Final = ("moving_mean", "moving_variance", "running_mean", "running_var")
CONTROL: Final = "control/"  # names of SCAFFOLD's control variates, which lie behind the weights
MAX_NAME: Final = 128  # characters of a tensor, or of a figure
ALIGNMENT: Final = 8  # bytes; no tensor starts inside another's word, so no view is ever unaligned


def bytes_of(buffer: Buffer) -> memoryview:
    """The buffer's bytes, not copied."""
    return memoryview(buffer)  # type: ignore[arg-type]  # numpy's stubs predate PEP 688


def role_by_name(name: str) -> Role:
    """The role of a tensor of which nothing but its name is known."""
    last = re.split(r"[/.]", name)[-1]
    return STATISTIC if last in STATISTIC_NAMES else TRAINABLE


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of the tensor table: a name, a shape, one of ``DTYPES``, and a role."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role = TRAINABLE

    @property
    def size_bytes(self) -> int:
        """Bytes of this tensor alone, without padding."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes ``start`` to ``stop`` of the buffer, of one dtype and role; arithmetic works on it."""

    dtype: str
    start: int
    stop: int
    role: Role = TRAINABLE


@dataclass(frozen=True)
class Layout:
    """The tensor table of a model. Two models federate if ``difference`` finds none."""

    tensors: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        arrays: Sequence[Array],
        names: Sequence[str] | None = None,
        roles: Sequence[Role] | None = None,
    ) -> "Layout":
        """Layout of ``arrays`` in their order; unnamed tensors are called ``0``, ``1``, …

        Without ``roles`` all are trainable. Raises ConfigError for a dtype that does not federate.
        """
        if not arrays:
            raise ConfigError("the model has no weights: build it before it joins a federation")
        names = names or [str(number) for number in range(len(arrays))]
        for name, array in zip(names, arrays, strict=True):
            if str(array.dtype) not in DTYPES:
                raise ConfigError(
                    f"tensor {name} is {array.dtype}; only {' and '.join(DTYPES)} weights federate:"
                    " cast it, or keep it at the site with local="
                )
        return cls.stored(arrays, names, roles)

    @classmethod
    def stored(
        cls,
        arrays: Sequence[Array],
        names: Sequence[str] | None = None,
        roles: Sequence[Role] | None = None,
    ) -> "Layout":
        """Layout of ``arrays`` of any dtype: what is kept in a file and never sent."""
        names = names or [str(number) for number in range(len(arrays))]
        roles = roles or [TRAINABLE] * len(arrays)
        return cls(
            tuple(
                Tensor(name, tuple(map(int, array.shape)), str(array.dtype), role)
                for name, array, role in zip(names, arrays, roles, strict=True)
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
        if not self.tensors:
            return 0  # of what is trained in a model of statistics alone
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
        """Neighbouring tensors of one dtype and role as one run; many a model is a single run."""
        found: list[Run] = []
        ends = (*self.offsets[1:], self.size_bytes)
        for tensor, start, end in zip(self.tensors, self.offsets, ends, strict=True):
            if found and (found[-1].dtype, found[-1].role) == (tensor.dtype, tensor.role):
                found[-1] = Run(tensor.dtype, found[-1].start, end, tensor.role)
            else:
                found.append(Run(tensor.dtype, start, end, tensor.role))
        return tuple(found)

    @cached_property
    def has_statistics(self) -> bool:
        """Whether any tensor is a statistic."""
        return any(tensor.role == STATISTIC for tensor in self.tensors)

    @cached_property
    def trainable(self) -> "Layout":
        """The trainable tensors alone, in their order; it may have none."""
        return Layout(tuple(tensor for tensor in self.tensors if tensor.role == TRAINABLE))

    def trainable_of(self, each: Sequence[T]) -> list[T]:
        """Of one thing for each tensor, those of the trainable tensors."""
        pairs = zip(self.tensors, each, strict=True)
        return [one for tensor, one in pairs if tensor.role == TRAINABLE]

    @cached_property
    def with_controls(self) -> "Layout":
        """The same and, behind it, SCAFFOLD's control variate of each trainable tensor."""
        controls = (
            Tensor(f"{CONTROL}{number}", tensor.shape, tensor.dtype)
            for number, tensor in enumerate(self.tensors)
            if tensor.role == TRAINABLE
        )
        return Layout((*self.tensors, *controls))

    @cached_property
    def digest(self) -> str:
        """Short fingerprint of shapes, dtypes and roles (names may differ between frameworks)."""
        table = [
            [list(tensor.shape), tensor.dtype, *([tensor.role] * (tensor.role != TRAINABLE))]
            for tensor in self.tensors
        ]
        return hashlib.sha256(msgpack.packb(table)).hexdigest()[:16]

    def difference(
        self, other: "Layout", sides: tuple[str, str] | None = None, *, roles: bool = False
    ) -> str | None:
        """What first tells ``other`` apart from this layout, in words; None if they federate.

        Tensors go by place; but a name that both have has to be at one place in both, or the one
        site's kernel would be averaged with another's. ``sides`` calls the two by name, such as
        ``("this site's", "the federation's")``. With ``roles`` these have to agree, too, and where
        both models have names, the names.
        """
        if self.tensors == other.tensors:
            return None
        return (
            self._shape_difference(other, sides)
            or self._order_difference(other, *(sides or ("the expected", "the given")))
            or (self._meaning_difference(other, *(sides or ("the expected", "the given"))) * roles)
            or None
        )

    def _shape_difference(self, other: "Layout", sides: tuple[str, str] | None) -> str:
        for number, (ours, found) in enumerate(zip(self.tensors, other.tensors, strict=False)):
            if (ours.shape, ours.dtype) != (found.shape, found.dtype):
                if sides is None:
                    return f"tensor {number} is {found}, expected {ours}"
                return f"{sides[0]} tensor {number} is {_kind(ours, number)}, {sides[1]} is" + (
                    f" {_kind(found, number)}"
                )
        if len(self.tensors) == len(other.tensors):
            return ""
        if sides is None:
            return f"{len(other.tensors)} tensors, expected {len(self.tensors)}"
        return f"{sides[0]} model has {len(self.tensors)} tensors, {sides[1]} {len(other.tensors)}"

    def _order_difference(self, other: "Layout", mine: str, theirs: str) -> str:
        ours, found = self._canonical, other._canonical
        places = {name: place for place, name in enumerate(found)}
        counts = Counter((*ours, *found))
        for number, name in enumerate(ours):
            place = places.get(name, number)
            if place != number and not name.isdecimal() and counts[name] == 2:
                return (
                    f"the tensors are in another order: {self.tensors[number].name} is at place"
                    f" {number} in {mine} model and at {place} in {theirs}; build the layers in one"
                    " order everywhere (a set has none)"
                )
        return ""

    def _meaning_difference(self, other: "Layout", mine: str, theirs: str) -> str:
        if named := self.named_otherwise(other):
            return f"{theirs} model is another one: {named}"
        for ours, found in zip(self.tensors, other.tensors, strict=True):
            if ours.role != found.role:
                words = f"{_ROLES[ours.role]}, {theirs} is {_ROLES[found.role]}"
                return f"{mine} tensor {ours.name} is {words}"
        return ""

    def named_otherwise(self, other: "Layout") -> str | None:
        """Which name of ``other`` this layout lacks, in words, if both have names; else None.

        For files: one of another architecture may have tensors of the same shapes.
        """
        ours, theirs = set(self._canonical), set(other._canonical)
        if any(name.isdecimal() for name in (*ours, *theirs)) or not theirs - ours:
            return None
        known = {name: t.name for name, t in zip(other._canonical, other.tensors, strict=True)}
        missing = min(theirs - ours)
        return (
            f"it has {known[missing]}, and the model's tensors are {', '.join(sorted(ours)[:6])}, …"
        )

    @cached_property
    def _canonical(self) -> list[str]:
        return canonical([tensor.name for tensor in self.tensors])


_ROLES: Final = {TRAINABLE: "trained", STATISTIC: "a statistic, or frozen"}


def _kind(tensor: Tensor, place: int) -> str:
    """A tensor in words, without a name that only says its place."""
    words = f"{tensor.dtype} {list(tensor.shape)}"
    return words if tensor.name == str(place) else f"{tensor.name}, {words}"


_NUMBERED: Final = re.compile(r"(.*?)_(\d+)")


def canonical(names: Sequence[str]) -> list[str]:
    """``names`` without what depends on how many models a process has made before.

    Keras calls the second Dense of a process ``dense_1`` whichever model it is in, so a number
    counts here by its rank among those of its word; of names in three parts or more a first part
    that all share, the name of the model, is left out.
    """
    parts = [name.split("/") for name in names]
    if len({part[0] for part in parts}) == 1 and all(len(part) > 2 for part in parts):
        parts = [part[1:] for part in parts]
    seen: dict[str, set[int]] = {}
    for part in parts:
        for word in part:
            base, number = _base(word)
            seen.setdefault(base, set()).add(number)
    ranks = {
        base: {n: rank for rank, n in enumerate(sorted(found))} for base, found in seen.items()
    }

    def told(word: str) -> str:
        base, number = _base(word)
        rank = ranks[base][number]
        return f"{base}_{rank}" if rank else base

    return ["/".join(map(told, part)) for part in parts]


def _base(word: str) -> tuple[str, int]:
    match = _NUMBERED.fullmatch(word)
    return (match[1], int(match[2])) if match is not None else (word, 0)


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
        found = cls(layout, np.empty(layout.size_bytes, np.uint8))
        found.clear_padding()  # chance bytes would be added up as numbers
        return found

    def clear_padding(self) -> None:
        """Make the bytes that belong to no tensor zeros: a file of the weights has none of them."""
        ends = (*self.layout.offsets[1:], self.layout.size_bytes)
        for tensor, start, end in zip(self.layout.tensors, self.layout.offsets, ends, strict=True):
            self.buffer[start + tensor.size_bytes : end] = 0

    @classmethod
    def of(cls, arrays: Iterable[Array], layout: Layout | None = None) -> "Weights":
        """``arrays`` themselves if they are Weights already, else a packed copy of them.

        Names and roles are those of ``layout``, if it is given. Raises ConfigError if ``arrays`` do
        not fit it.
        """
        if not isinstance(arrays, Weights):
            arrays = [np.asarray(array) for array in arrays]
            found = Layout.of(arrays)
        else:
            found = arrays.layout
        if layout is not None and (difference := layout.difference(found)):
            raise ConfigError(f"these weights do not fit the model: {difference}")
        if isinstance(arrays, Weights):
            if layout is None or found.tensors == layout.tensors:
                return arrays
            return cls(layout, arrays.buffer)
        packed = cls.uninitialized(layout or found)
        for target, array in zip(packed, arrays, strict=True):
            np.copyto(target, array)
        return packed

    def runs(self, buffer: Buffer | None = None) -> list[Array]:
        """The buffer as one flat array per dtype run."""
        block = self.buffer if buffer is None else buffer
        return [block[run.start : run.stop].view(run.dtype) for run in self.layout.runs]
