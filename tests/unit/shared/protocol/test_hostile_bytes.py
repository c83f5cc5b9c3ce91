"""What the fuzzer found, again, and what hypothesis thinks of; `make fuzz` looks for more."""

import ast
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import codes, decoder, step
from tests.fuzz.instructions import packed
from warren_shared.errors import Rejected
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.codec import MAX_HEADER_BYTES, decode

ROOT = Path(__file__).parents[4]
CORPUS = ROOT / "tests" / "fuzz" / "corpus"
RUNS: dict[str, Callable[[bytes], None]] = {
    "decoder": decoder.run,
    "step": step.run,
    "codes": codes.run,
}
PACKAGES = ("broker_config", "client_worker", "coordinator_worker", "shared")

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
    | st.text(max_size=9) | st.binary(max_size=9)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("target", RUNS)
def test_the_fuzzers_corpus(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert len(inputs) > 50
    for path in inputs:
        RUNS[target](path.read_bytes())


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    decoder.run(data)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.binary(max_size=200), st.binary(max_size=60))
def test_any_properties_and_headers_in_frames_as_the_broker_sends_them(
    properties: bytes, body: bytes
) -> None:
    """From the bytes of the socket on: a delivery comes of it, of whoever the broker says."""
    decoder.run(decoder.FRAMED + properties)
    decoder.run(decoder.FRAMED + properties + decoder.BUILT + body)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.sampled_from(decoder.HEADERS), st.data())
def test_a_header_with_anything_in_it(header: dict[str, object], data: st.DataObject) -> None:
    names = [*header, "protocol", "more"]
    wrong = data.draw(st.dictionaries(st.sampled_from(names), ANYTHING, max_size=3))
    decoder.run(packed({"protocol": 1, **header, **wrong}, data.draw(st.binary(max_size=20))))


@settings(max_examples=150)
@given(st.binary(max_size=400))
def test_any_sequence_of_deliveries(data: bytes) -> None:
    step.run(data)


BOMBS = {
    "an array of 4 billion": b"\xdd\xff\xff\xff\xff",
    "a map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "a text of 4 GB": b"\xdb\xff\xff\xff\xff",
    "a bin of 4 GB": b"\xc6\xff\xff\xff\xff",
    "an ext of 4 GB": b"\xc9\xff\xff\xff\xff\x01",
    "arrays in arrays": b"\x91" * 1_000_000,
    "maps in maps": b"\x81\xa1a" * 500_000,
    "a million nils": b"\x80" + b"\xc0" * 1_000_000,
    "a megabyte that is no header": b"\x80" * 1_000_000,
    "a header that announces a chunk of 4 GB": msgpack.packb(
        {"protocol": 1, "kind": "chunk", "transfer": "ab" * 8, "index": 1}
    ) + b"\xc6\xff\xff\xff\xff",
    "a tensor table of many": msgpack.packb(
        {"protocol": 1, "kind": "initial", "tensors": [{"name": "w"}] * 9_990}
    ),
    "millions of empty maps": msgpack.packb([[{}] * 9_000] * 200),
    "millions of numbers": msgpack.packb({"a": [[300] * 9_000] * 150}),
    "millions of texts": msgpack.packb({"a": [["ab"] * 9_000] * 150}),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_body_takes_more_memory_than_a_few_times_its_own(bomb: str) -> None:
    body = BOMBS[bomb]
    tracemalloc.start()
    try:
        with pytest.raises(Rejected):
            decode(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What a header's bytes become in memory is more than they are, but bounded as they are.
    assert peak < 25 * MAX_HEADER_BYTES, f"{peak} bytes for {len(body)}"


def test_a_header_of_many_fields_is_refused_without_a_look_at_each() -> None:
    body = msgpack.packb({"protocol": 1, "kind": "join"} | {f"f{n}": n for n in range(60_000)})
    tracemalloc.start()
    try:
        with pytest.raises(Rejected, match="max_map_len"):
            decode(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(body)


def test_an_announced_array_takes_no_place_before_its_elements_come() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Rejected):
            decode(b"\xdd\x00\xff\xff\xff")  # 16 million
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < CHUNK_BYTES


# What makes an object of bytes, or runs them.
FORBIDDEN_MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "zlib",
    "gzip", "bz2", "lzma", "zipimport", "code", "runpy",
}  # fmt: skip
ALLOWED = {
    "weights_file.py": {"zlib"},  # its error, for an operator's own damaged .npz
    "sklearn_file.py": {"joblib"},  # writes an operator's own .joblib; the test below has no load
    "torch_model.py": {"pickle"},  # its error: PyTorch reads an operator's own .pt, weights only
    "audit_files.py": {"gzip", "zlib"},  # an operator's own log, compressed by logrotate
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "load_model", "from_config",
                   "deserialize", "deserialize_keras_object"}  # fmt: skip


def test_nothing_that_comes_from_the_wire_can_become_code() -> None:
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names]
                    modules = [*names, getattr(node, "module", None) or ""]
                    roots = {module.split(".")[0] for module in modules}
                    wrong = (roots & FORBIDDEN_MODULES) - ALLOWED.get(path.name, set())
                    found += [f"{where} {name}" for name in wrong]
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    plain = isinstance(node.func, ast.Name) or name not in {"compile", "eval"}
                    if name in FORBIDDEN_CALLS and plain:
                        found.append(f"{where} {name}()")
                    pickles = [k.value for k in node.keywords if k.arg == "allow_pickle"]
                    if any(getattr(value, "value", None) is not False for value in pickles):
                        found.append(f"{where} allow_pickle")
    assert found == []


def test_what_may_write_a_pickle_reads_none() -> None:
    text = (ROOT / "client_worker" / "models" / "sklearn_file.py").read_text()
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert "dump" in called
    assert not any("load" in name for name in called)
