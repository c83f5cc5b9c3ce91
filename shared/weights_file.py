"""Weights in files that other programs read, too: ``.npz`` and ``.safetensors``.

The trust boundary of model files: nothing is unpickled, and what a header claims is compared with
what is there before memory is asked for. A ``.safetensors`` has no tensor order, so ours say
it in their metadata (``tensors``); one of another origin is put in order by its tensors' names.
"""

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
from pydantic import ValidationError

from warren_shared.errors import ConfigError
from warren_shared.files import replacing
from warren_shared.protocol.codec import tensor_entries
from warren_shared.protocol.messages import MAX_TENSORS
from warren_shared.protocol.transfer import digest
from warren_shared.tensors.frozen import FACT
from warren_shared.tensors.layout import (
    CONTROL,
    DTYPES,
    STATISTIC,
    TRAINABLE,
    Layout,
    Tensor,
    Weights,
    bytes_of,
    role_by_name,
)

Facts = Mapping[str, str]

ENDINGS: Final = (".npz", ".safetensors")
_CODES: Final = {"float32": "F32", "float64": "F64"}
_DTYPES: Final = {code: dtype for dtype, code in _CODES.items()}
_RESERVED: Final = "__metadata__"
_PADDING: Final = 8  # a header's length is a multiple of it, and so the data is aligned
_UNREADABLE: Final = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    MemoryError,
    RuntimeError,  # zipfile's, of an archive with a password
    zipfile.BadZipFile,
    zlib.error,
)


class Read(NamedTuple):
    """What a file holds; ``facts`` are a ``.safetensors``'s metadata, of a ``.npz`` only FACT."""

    weights: Weights
    facts: Facts


def read(path: Path, named: str = "", like: Layout | None = None) -> Read:
    """The weights in ``path``.

    ``named`` is what errors call it. ``like``: the model that they are to be of; it brings tensors
    of the same names into its order, and one that has no control variates (SCAFFOLD) reads none.

    Raises ConfigError if they cannot be read, or do not fit ``like``.
    """
    named = named or str(path)
    ending = _ending(path, named)
    try:
        found = (_read_npz if ending == ".npz" else _read_safetensors)(path, named, like)
    except _UNREADABLE as error:
        raise ConfigError(f"{named} is not a readable {ending}: {error}") from None
    _check_table(found.weights.layout, named)
    if like is not None and (difference := like.difference(found.weights.layout)):
        raise ConfigError(f"{named} does not fit the model: {difference}")
    return found


def facts_of(path: Path) -> Facts:
    """The metadata of a ``.safetensors``; raises ConfigError if it is not a whole one."""
    try:
        with _safetensors(path) as file:
            return dict(file.metadata() or {})
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a whole .safetensors: {error}") from None


def frozen_in(path: Path) -> str | None:
    """The digest of the frozen weights that a file of what trains belongs to; None of a whole one.

    And None of what cannot be read: to read it will say why.
    """
    try:
        if path.suffix.lower() == ENDINGS[1]:
            return facts_of(path).get(FACT)
        with zipfile.ZipFile(path) as archive:
            return _facts_in(archive.comment).get(FACT)
    except (ConfigError, *_UNREADABLE):
        return None


def write(
    path: Path, weights: Weights, facts: Facts | None = None, *, mode: int | None = None
) -> None:
    """Write ``weights`` in the format that ``path`` ends in: whole, or not at all.

    ``facts`` go into a ``.safetensors``; a ``.npz`` has room for FACT alone. ``mode`` is that of
    the file, by default what the umask leaves.

    Raises OSError if the disk does not take it, ConfigError if the ending is no format of ours.
    """
    ending = _ending(path, str(path))
    with replacing(path, mode=mode) as temporary, temporary.open("wb") as file:
        if ending == ".npz":
            _write_npz(file, weights, facts or {})
        else:
            write_safetensors(file, weights, facts or {})


def write_safetensors(file: IO[bytes], weights: Weights, facts: Facts) -> None:
    """Write straight from the buffer: the library's ``save_file`` would hold the interpreter."""
    layout = weights.layout
    names = _names(layout)
    said = {"format": "np", **facts, "tensors": json.dumps(names), **_roles_told(layout)}
    header: dict[str, Any] = {_RESERVED: dict(sorted(said.items()))}  # read back they have no order
    end = 0
    for name, tensor in zip(names, layout.tensors, strict=True):
        start, end = end, end + tensor.size_bytes
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _PADDING)
    file.write(len(text).to_bytes(8, "little") + text)
    whole = bytes_of(weights.buffer)
    for tensor, start in zip(layout.tensors, layout.offsets, strict=True):
        file.write(whole[start : start + tensor.size_bytes])


def without_controls(weights: Weights) -> Weights:
    """``weights`` without SCAFFOLD's control variates, which are no part of the model."""
    layout = weights.layout
    if layout.controls_start == layout.size_bytes:
        return weights
    kept = Layout(tuple(t for t in layout.tensors if not t.name.startswith(CONTROL)))
    return Weights(kept, weights.buffer[: kept.size_bytes])


def digest_text(weights: Weights) -> str:
    """XXH3 of ``weights`` as the audit log and our files write it."""
    return f"{digest(weights.buffer):016x}"


def check_finite(weights: Weights, named: str) -> None:
    """Raise ConfigError if one of ``weights`` is NaN or infinite: nothing could come of it."""
    for tensor, array in zip(weights.layout.tensors, weights, strict=True):
        if not np.isfinite(array).all():
            raise ConfigError(f"{named}: tensor {tensor.name} has values that are not finite")


def _ending(path: Path, named: str) -> str:
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"{named} is not a readable .npz or .safetensors: it ends in neither")
    return ending


def _check_table(layout: Layout, named: str) -> None:
    """Raise ConfigError if a table of these tensors could not travel."""
    if len(layout.tensors) > MAX_TENSORS:
        raise ConfigError(f"{named} has {len(layout.tensors)} tensors; {MAX_TENSORS} is the most")
    try:
        tensor_entries(layout)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise ConfigError(f"{named}: its tensors' names or shapes: {reason}") from None


def _roles_told(layout: Layout) -> dict[str, str]:
    """Metadata that names the statistics; none for a model without any."""
    found = [
        name
        for name, tensor in zip(_names(layout), layout.tensors, strict=True)
        if tensor.role == STATISTIC
    ]
    return {"statistics": json.dumps(found)} if found else {}


def _with_roles(tensors: Sequence[Tensor], facts: Facts, like: Layout | None) -> list[Tensor]:
    """``tensors`` with the roles that ``like`` or ``facts`` give them, else by their names."""
    named = _listed(facts.get("statistics"))
    if like is not None and len(like.tensors) == len(tensors):
        roles = [tensor.role for tensor in like.tensors]
    elif named is not None:
        roles = [STATISTIC if tensor.name in named else TRAINABLE for tensor in tensors]
    else:
        roles = [role_by_name(tensor.name) for tensor in tensors]
    return [replace(tensor, role=role) for tensor, role in zip(tensors, roles, strict=True)]


def _listed(text: str | None) -> list[str] | None:
    """The list of words that a piece of metadata is; None if it is something else."""
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    told = isinstance(found, list) and all(isinstance(word, str) for word in found)
    return found if told else None


def _names(layout: Layout) -> list[str]:
    """Each tensor's name, with a number behind it where it would stand for two."""
    found: dict[str, None] = {}
    for tensor in layout.tensors:
        name, number = tensor.name, 1
        while name in found or name == _RESERVED:
            number += 1
            name = f"{tensor.name[:120]}~{number}"
        found[name] = None
    return list(found)


# --- .npz -----------------------------------------------------------------------------------------


def _write_npz(file: IO[bytes], weights: Weights, facts: Facts) -> None:
    # np.savez would take a tensor named `file` for its own argument.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.comment = _comment(weights.layout, facts)
        for name, array in zip(_names(weights.layout), weights, strict=True):
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _comment(layout: Layout, facts: Facts) -> bytes:
    """The roles, where no reader of arrays looks, unless they are too many for it; the fact FACT.

    Without the latter a file of what trains would be taken for one of any frozen weights.
    """
    known = {FACT: facts[FACT]} if FACT in facts else {}
    for told in ({**_roles_told(layout), **known}, known):
        comment = json.dumps(told).encode() if told else b""
        if len(comment) < 1 << 16:
            return comment
    return b""


def _facts_in(comment: bytes) -> Facts:
    try:
        found = json.loads(comment or b"{}")
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _read_npz(path: Path, named: str, like: Layout | None) -> Read:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        tensors = [_tensor_in(archive, info, named) for info in archive.infolist()]
        facts = _facts_in(archive.comment)
        layout = _chosen(_ordered(tensors, like), like, facts, named)
        weights = Weights.uninitialized(layout)
        for tensor, target in zip(layout.tensors, weights, strict=True):
            with archive.open(f"{tensor.name}.npy") as entry:
                np.copyto(target, np.lib.format.read_array(entry, allow_pickle=False))
    return Read(weights, {name: told for name, told in facts.items() if name == FACT})


def _tensor_in(archive: zipfile.ZipFile, info: zipfile.ZipInfo, named: str) -> Tensor:
    """What a member claims to be, if there are as many bytes as it claims."""
    name = info.filename.removesuffix(".npy")
    if name == info.filename:
        raise ValueError(f"{name} is no array")
    with archive.open(info) as entry:
        version = np.lib.format.read_magic(entry)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(entry)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(entry)
        length = entry.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    tensor = _known(name, shape, str(dtype), named)
    if info.file_size - length != tensor.size_bytes:
        raise ValueError(f"{name} is {info.file_size - length} bytes, not {tensor.size_bytes}")
    return tensor


# --- .safetensors ---------------------------------------------------------------------------------


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    """The open file; what safetensors finds wrong with it is a ValueError."""
    from safetensors import SafetensorError, safe_open  # 1 MB that a worker seldom needs

    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _read_safetensors(path: Path, named: str, like: Layout | None) -> Read:
    with _safetensors(path) as file:
        facts: Facts = dict(file.metadata() or {})
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        tensors = [
            _known(name, part.get_shape(), _DTYPES.get(part.get_dtype(), part.get_dtype()), named)
            for name, part in found.items()
        ]
        order = _order_in(facts, [tensor.name for tensor in tensors])
        by_name = {tensor.name: tensor for tensor in tensors}
        if (known := _by_names(tensors, like)) is not None:
            table = known
        elif order is not None:
            table = [by_name[name] for name in order]
        else:
            raise ConfigError(
                f"{named} does not say in which order its tensors are the model's: `client-worker"
                f" export --task TASK --model {path} --to FILE.npz` finds out by their names"
            )
        layout = _chosen(table, like, facts, named)
        weights = Weights.uninitialized(layout)
        for tensor, target in zip(layout.tensors, weights, strict=True):
            np.copyto(target, file.get_tensor(tensor.name))
    said = facts.get("digest")
    whole = order == [tensor.name for tensor in layout.tensors]
    if said is not None and whole and digest_text(weights) != said:
        raise ConfigError(f"{named} is damaged: its weights have not the digest that it names")
    return Read(weights, facts)


def _order_in(facts: Facts, names: Sequence[str]) -> list[str] | None:
    """The tensors' order as the metadata or plain numbers tell it; None if they do not."""
    order = _listed(facts.get("tensors"))
    if order is not None and sorted(order) == sorted(names):
        return order
    numbered = [str(number) for number in range(len(names))]
    return numbered if set(numbered) == set(names) else None


# --- both -----------------------------------------------------------------------------------------


def _known(name: str, shape: Iterable[int], dtype: str, named: str) -> Tensor:
    if dtype not in DTYPES:
        raise ConfigError(
            f"{named}: tensor {name} is {dtype}; only {' and '.join(DTYPES)} weights federate: cast"
            " it, or leave it out"
        )
    sizes = tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes) or prod(filter(None, sizes)) >= 1 << 60:
        raise ValueError(f"{name} has the shape {list(sizes)}")
    return Tensor(name, sizes, dtype)


def _by_names(tensors: Sequence[Tensor], like: Layout | None) -> list[Tensor] | None:
    """``tensors`` in the order of ``like``, if their names are its."""
    by_name = {tensor.name: tensor for tensor in tensors}
    wanted = [tensor.name for tensor in like.tensors] if like is not None else []
    return [by_name[name] for name in wanted] if set(wanted) == set(by_name) else None


def _ordered(tensors: Sequence[Tensor], like: Layout | None) -> list[Tensor]:
    return _by_names(tensors, like) or list(tensors)


def _chosen(tensors: Sequence[Tensor], like: Layout | None, facts: Facts, named: str) -> Layout:
    """The layout to read: control variates only into a model that has them.

    Raises ConfigError if its tensors have names, but others than those of ``like``.
    """
    if not tensors:
        raise ValueError("it holds no tensors")
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise ValueError("two of its tensors have one name")
    if like is not None and not any(t.name.startswith(CONTROL) for t in like.tensors):
        tensors = [t for t in tensors if not t.name.startswith(CONTROL)] or tensors
    layout = Layout(tuple(_with_roles(tensors, facts, like)))
    if like is not None and (other := like.named_otherwise(layout)):
        raise ConfigError(f"{named} is of another model: {other}")
    return layout
