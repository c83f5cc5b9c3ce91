"""Model files: what is written is read again, by others too; whatever else comes is refused."""

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from warren_shared import weights_file
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Layout, Tensor, Weights

names = st.sampled_from(
    ["file", "__metadata__", "a/b", "a/b", "../up", "ä", "control/0", "x" * 128]
)
tables = st.lists(
    st.tuples(
        names,
        st.lists(st.integers(0, 3), max_size=3).map(tuple),
        st.sampled_from(["float32", "float64"]),
    ),
    min_size=1,
    max_size=6,
)


def model(*names: str) -> Weights:
    arrays = [np.arange(6, dtype="f4").reshape(2, 3), np.array(0.5), np.ones(3, "f4")]
    return Weights(
        Layout.of(arrays, names or ("kernel", "bias", "scale")), Weights.of(arrays).buffer
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(tables, st.sampled_from(weights_file.ENDINGS))
def test_any_model_comes_back_in_its_order(
    tmp_path: Path, table: list[tuple[str, tuple[int, ...], str]], ending: str
) -> None:
    layout = Layout(tuple(Tensor(*entry) for entry in table))
    weights = Weights.empty(layout)
    for number, array in enumerate(weights, start=1):
        array[...] = number
    path = tmp_path / f"model{ending}"
    weights_file.write(path, weights, {"digest": weights_file.digest_text(weights)})
    found = weights_file.read(path).weights
    assert layout.difference(found.layout) is None
    assert found.buffer.tobytes() == weights.buffer.tobytes()
    assert len({tensor.name for tensor in found.layout.tensors}) == len(table)
    assert not list(tmp_path.glob("*.tmp"))


def test_others_read_what_we_write(tmp_path: Path) -> None:
    for ending in weights_file.ENDINGS:
        weights_file.write(tmp_path / f"m{ending}", model(), {"run": "abcd"})
    theirs = load_file(tmp_path / "m.safetensors")
    with np.load(tmp_path / "m.npz") as arrays:
        assert arrays.files == ["kernel", "bias", "scale"]
        for name, array in zip(arrays.files, model(), strict=True):
            np.testing.assert_array_equal(arrays[name], array)
            np.testing.assert_array_equal(theirs[name], array)
    assert weights_file.facts_of(tmp_path / "m.safetensors")["run"] == "abcd"


def test_a_safetensors_of_others_is_put_in_order_by_its_names(tmp_path: Path) -> None:
    path, ours = tmp_path / "theirs.safetensors", model()
    save_file({t.name: a for t, a in zip(ours.layout.tensors, ours, strict=True)}, path)
    found = weights_file.read(path, like=ours.layout).weights
    assert found.buffer.tobytes() == ours.buffer.tobytes()
    with pytest.raises(ConfigError, match="does not say in which order"):
        weights_file.read(path)
    save_file({str(number): array for number, array in enumerate(ours)}, path)
    assert weights_file.read(path).weights.buffer.tobytes() == ours.buffer.tobytes()


def test_a_npz_in_another_order_is_put_in_ours(tmp_path: Path) -> None:
    kernel, bias, scale = model()
    np.savez(tmp_path / "m.npz", scale=scale, bias=bias, kernel=kernel)
    found = weights_file.read(tmp_path / "m.npz", like=model().layout).weights
    assert found.buffer.tobytes() == model().buffer.tobytes()


def test_control_variates_are_read_only_into_a_model_that_has_some(tmp_path: Path) -> None:
    whole = model("w", "control/0", "control/1")
    for ending in weights_file.ENDINGS:
        path = tmp_path / f"m{ending}"
        weights_file.write(path, whole, {"digest": weights_file.digest_text(whole)})
        assert len(weights_file.read(path, like=whole.layout).weights) == 3
        alone = Layout(whole.layout.tensors[:1])
        assert len(weights_file.read(path, like=alone).weights) == 1
    assert len(weights_file.without_controls(whole)) == 1


def test_another_models_weights_are_refused(tmp_path: Path) -> None:
    weights_file.write(tmp_path / "m.npz", model())
    other = Layout.of([np.zeros(2)])
    with pytest.raises(ConfigError, match="does not fit the model: tensor 0 is"):
        weights_file.read(tmp_path / "m.npz", like=other)


def header(table: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "nothing": b"",
    "rubbish": b"rubbish" * 9,
    "a header of an exabyte": struct.pack("<Q", 1 << 60) + b"{}",
    "a header over the limit": struct.pack("<Q", 200 << 20) + b"{" + b" " * 99,
    "data cut short": header({"w": ENTRY}, b"1234"),
    "data too long": header({"w": ENTRY}, b"1234567890"),
    "a hole": header({"w": {**ENTRY, "data_offsets": [8, 16]}}, bytes(16)),
    "overlapping": header({"v": ENTRY, "w": ENTRY}, bytes(8)),
    "a shape beyond its data": header({"w": {**ENTRY, "shape": [1 << 40]}}, bytes(8)),
    "a negative shape": header({"w": {**ENTRY, "shape": [-2]}}, bytes(8)),
    "no tensors": header({}),
    "not JSON": struct.pack("<Q", 4) + b"{{{{",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_safetensors_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a readable") as caught:
        weights_file.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", ['["w"', '["w", "w"]', "7", '["v"]', "[" * 100_000])
def test_an_order_that_is_none_is_not_believed(tmp_path: Path, order: str) -> None:
    path = tmp_path / "m.safetensors"
    entry = {**ENTRY, "data_offsets": [8, 16]}
    table = {"__metadata__": {"tensors": order}, "w": ENTRY, "v": entry}
    path.write_bytes(header(table, bytes(16)))
    with pytest.raises(ConfigError, match="does not say in which order"):
        weights_file.read(path)


def npy(shape: tuple[int, ...], dtype: str = "<f4", data: bytes = b"") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


MEMBERS = {
    "a shape of an exabyte": {"w.npy": npy((1 << 57,), data=bytes(8))},
    "a negative shape": {"w.npy": npy((-2,), data=bytes(8))},
    "data cut short": {"w.npy": npy((4,), data=bytes(8))},
    "data too long": {"w.npy": npy((1,), data=bytes(8))},
    "objects": {"w.npy": npy((1,), "|O", b"\x80\x04N.")},
    "no array": {"w.txt": b"hello"},
    "no header": {"w.npy": b"\x93NUMPY"},
    "nothing": {},
}


@pytest.mark.parametrize("members", MEMBERS.values(), ids=MEMBERS)
def test_a_hostile_npz_is_one_line(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ConfigError, match="not a readable") as caught:
        weights_file.read(path)
    assert "\n" not in str(caught.value)


def test_names_and_numbers_beyond_what_can_travel_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, **{"x" * 129: np.zeros(1)})
    with pytest.raises(ConfigError, match="names or shapes"):
        weights_file.read(path)
    np.savez(path, **{str(number): np.zeros(1) for number in range(10_001)})
    with pytest.raises(ConfigError, match="10000 is the most"):
        weights_file.read(path)


def test_half_precision_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"0": np.zeros(2, np.float16)}, tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match="tensor 0 is F16; only float32 and float64"):
        weights_file.read(tmp_path / "m.safetensors")


def test_a_file_whose_bytes_were_changed_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    weights_file.write(path, model(), {"digest": weights_file.digest_text(model())})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        weights_file.read(path)


def test_a_file_that_cannot_be_written_whole_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    weights_file.write(path, model())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_file, "bytes_of", full)
    with pytest.raises(OSError, match="No space"):
        weights_file.write(path, model("a", "b", "c"))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_model_that_is_not_finite_is_told_by_its_tensor() -> None:
    weights = model()
    weights[2][1] = np.nan
    with pytest.raises(ConfigError, match="tensor scale has values that are not finite"):
        weights_file.check_finite(weights, "m.npz")
