"""A model as the change from the one before: both ends have the same bits, and nothing is lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_shared.errors import Rejected
from warren_shared.protocol.codec import model_layout, tensor_entries
from warren_shared.protocol.messages import ModelManifest
from warren_shared.protocol.transfer import transfer_fields
from warren_shared.tensors.compression import BLOCK, size_bytes
from warren_shared.tensors.layout import Layout, Weights, bytes_of
from warren_shared.tensors.model_change import (
    DOWNLINKS,
    ModelChange,
    change_id,
    encoded_change,
    move,
)

EACH = pytest.mark.parametrize("encoding", DOWNLINKS)
RUN = "ab" * 4
LAYOUT = Layout(
    Layout.of(
        [
            np.zeros(3 * BLOCK + 5, np.float32),
            np.zeros(7, np.float32),
            np.zeros((2, BLOCK)),
            np.zeros(65 * BLOCK, np.float32),
        ],
        roles=["trainable", "statistic", "trainable", "trainable"],
    ).tensors
)


def drawn(seed: int, size: float = 1.0) -> Weights:
    draw = np.random.default_rng(seed)
    made = Weights.uninitialized(LAYOUT)
    for array in made:
        array[...] = size * draw.standard_normal(array.shape)
    return made


def trained(weights: Weights) -> np.ndarray:
    return np.concatenate([weights[n].ravel() for n in (0, 2, 3)])


def received(old: Weights, change: ModelChange) -> Weights:
    made = Weights(old.layout, np.full(old.layout.size_bytes, 255, np.uint8))
    move(old, change, made)
    return made


@EACH
def test_who_applies_the_change_has_the_very_model(encoding: str) -> None:
    old, new = drawn(1), drawn(2)
    change, sent = encoded_change(old, new, encoding, change_id(RUN, 1))
    assert change.code.nbytes == size_bytes(LAYOUT, encoding)
    assert received(old, change).buffer.tobytes() == sent.buffer.tobytes()
    np.testing.assert_array_equal(sent[1], new[1])  # a statistic is replaced
    assert (trained(sent) != trained(old)).mean() > 0.9


@EACH
def test_what_one_change_lacks_the_next_ones_bring(encoding: str) -> None:
    old, new = drawn(1), drawn(2)
    first = float(np.linalg.norm(trained(new) - trained(old)))
    for version in range(12):
        _, old = encoded_change(old, new, encoding, change_id(RUN, version))
    left = float(np.linalg.norm(trained(new) - trained(old)))
    assert left < 0.1 * first


def test_the_result_may_take_the_place_of_what_is_no_longer_needed() -> None:
    old, new, memory = drawn(1), drawn(2), drawn(3)
    _, apart = encoded_change(old, new, "1bit", change_id(RUN, 1))
    _, sent = encoded_change(old, new, "1bit", change_id(RUN, 1), into=memory)
    assert sent is memory
    assert sent.buffer.tobytes() == apart.buffer.tobytes()


def test_the_same_round_gives_the_same_change_and_no_other_does() -> None:
    assert change_id(RUN, 7) == change_id(RUN, 7)
    ids = {change_id(run, version) for run in (RUN, "cd" * 4) for version in range(100)}
    assert len(ids) == 200


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@EACH
def test_a_change_that_is_too_large_is_refused_by_both(encoding: str, value: float) -> None:
    old, new = drawn(1), drawn(2)
    new[0][17] = value
    with pytest.raises(Rejected, match="not-finite"):
        encoded_change(old, new, encoding, change_id(RUN, 1))


@pytest.mark.parametrize("place", ["scale", "statistic"])
def test_numbers_that_are_none_are_not_applied(place: str) -> None:
    old, new = drawn(1), drawn(2)
    change, _ = encoded_change(old, new, "1bit", change_id(RUN, 1))
    at = 0 if place == "statistic" else 8 * 4  # seven float32, padded to eight bytes
    change.code[at : at + 4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
    with pytest.raises(Rejected, match="not-finite"):
        received(old, change)


@given(st.integers(0, 2**32), st.floats(1e-6, 1e6), st.sampled_from(DOWNLINKS))
def test_a_chain_of_any_changes_is_followed_to_the_bit(
    seed: int, size: float, encoding: str
) -> None:
    layout = Layout.of([np.zeros(BLOCK + 3, np.float32), np.zeros(2)])
    draw = np.random.default_rng(seed)
    ours = theirs = Weights.empty(layout)
    for version in range(4):
        new = Weights.of(
            [size * draw.standard_cauchy(t.shape).astype(t.dtype) for t in ours], layout
        )
        change, ours = encoded_change(ours, new, encoding, change_id(RUN, version))
        theirs = received(theirs, change)
        assert theirs.buffer.tobytes() == ours.buffer.tobytes()


def manifest(**fields: object) -> ModelManifest:
    told = {
        "federation": "f", "run": RUN, "version": 3, "tensors": tensor_entries(LAYOUT),
        "downlink": "1bit", "base": 2, "weights_digest": 5,
        **transfer_fields(np.zeros(size_bytes(LAYOUT, "1bit"), np.uint8)),
    }  # fmt: skip
    return ModelManifest.model_validate({**told, **fields})


def test_the_size_of_a_change_follows_from_the_layout() -> None:
    assert model_layout(manifest()) == LAYOUT
    with pytest.raises(Rejected, match=r"has [0-9]+ bytes, not"):
        model_layout(manifest(size_bytes=LAYOUT.size_bytes))
    with pytest.raises(Rejected, match="not known: upgrade"):
        model_layout(manifest(downlink="3bit"))
    with pytest.raises(Rejected, match="not known: upgrade"):
        model_layout(manifest(downlink="0.25bit"))  # it would lose more than it brings


@pytest.mark.parametrize(
    "fields", [{"downlink": "raw"}, {"weights_digest": None}, {"base": 3}, {"base": 4}]
)
def test_a_change_without_what_it_needs_is_no_message(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a change has an encoding"):
        manifest(**fields)


@pytest.mark.parametrize("encoding", DOWNLINKS)
def test_what_belongs_to_no_tensor_stays_zero(encoding: str) -> None:
    """Or a file of the model, which has no padding, would not have the model's digest."""
    draw = np.random.default_rng(1)
    old = Weights.of([draw.standard_normal(7).astype(np.float32)])
    new = Weights.of([draw.standard_normal(7).astype(np.float32)])
    change, sent = encoded_change(old, new, encoding, "ab" * 8)
    received = Weights.uninitialized(old.layout)
    move(old, change, received)
    assert not sent.buffer[28:].any()
    assert bytes_of(received.buffer) == bytes_of(sent.buffer)
