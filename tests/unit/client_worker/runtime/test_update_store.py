"""Updates that wait on disk: the same as they were, or none."""

from pathlib import Path

import numpy as np
import pytest

from client_worker.runtime.update_store import UpdateStore
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.messages import UpdateManifest
from warren_shared.protocol.transfer import Outgoing, new_transfer, transfer_fields
from warren_shared.tensors.compression import encode
from warren_shared.tensors.layout import Weights

DELTA = Weights.of([np.arange(CHUNK_BYTES // 4 + 10, dtype=np.float32), np.ones(3)])


def update(client: str = "alfa") -> Outgoing:
    manifest = UpdateManifest(
        federation="f", run="ab" * 4, client=client, base_version=3, num_examples=5,
        layout=DELTA.layout.digest, metrics={"loss": 0.5}, **transfer_fields(DELTA.buffer),
    )  # fmt: skip
    return Outgoing(manifest, DELTA.buffer)


def test_what_is_kept_comes_back_the_same_until_it_is_confirmed(tmp_path: Path) -> None:
    UpdateStore(tmp_path).put(update(), "alfa")
    keep = UpdateStore(tmp_path)
    found = keep.get("alfa", DELTA.layout)
    assert found is not None
    assert found[0].manifest.transfer
    assert found[0].buffer.tobytes() == DELTA.buffer.tobytes()
    assert found[1] is None
    assert keep.get("bravo", DELTA.layout) is None
    assert keep.last_confirmed("alfa") is None
    keep.confirmed("alfa", "ab" * 4, 3)
    assert keep.get("alfa", DELTA.layout) is None
    assert UpdateStore(tmp_path).last_confirmed("alfa") == ("ab" * 4, 3)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 100, CHUNK_BYTES, CHUNK_BYTES + 300])
def test_what_a_crash_cut_short_is_no_update(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    keep = UpdateStore(tmp_path)
    keep.put(update(), "alfa")
    path = tmp_path / "alfa.update"
    path.write_bytes(path.read_bytes()[:size])
    assert keep.get("alfa", DELTA.layout) is None
    assert "cannot be used" in caplog.text
    assert not path.exists()


def test_one_flipped_bit_is_no_update(tmp_path: Path) -> None:
    keep = UpdateStore(tmp_path)
    keep.put(update(), "alfa")
    path = tmp_path / "alfa.update"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert keep.get("alfa", DELTA.layout) is None


def test_an_update_of_another_model_is_not_used(tmp_path: Path) -> None:
    keep = UpdateStore(tmp_path)
    keep.put(update(), "alfa")
    assert keep.get("alfa", Weights.of([np.zeros(3)]).layout) is None


def test_a_damaged_note_of_what_was_confirmed_means_that_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "alfa.confirmed").write_text("[1")
    assert UpdateStore(tmp_path).last_confirmed("alfa") is None
    (tmp_path / "alfa.confirmed").write_text("[]")
    assert UpdateStore(tmp_path).last_confirmed("alfa") is None


def test_a_folder_that_takes_nothing_costs_the_copy_and_not_the_update(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep = UpdateStore(tmp_path / "s")
    (tmp_path / "s").rmdir()
    keep.put(update(), "alfa")
    assert "cannot be written" in caplog.text


def test_an_encoded_update_comes_back_in_the_same_bytes(tmp_path: Path) -> None:
    """Under the id that its signs are keyed by, so that nobody decodes anything else."""
    transfer = new_transfer()
    buffer = encode(DELTA, "1bit", transfer)
    manifest = UpdateManifest(
        federation="f", run="ab" * 4, client="alfa", base_version=3, num_examples=5,
        layout=DELTA.layout.digest, encoding="1bit", **transfer_fields(buffer, transfer),
    )  # fmt: skip
    UpdateStore(tmp_path).put(Outgoing(manifest, buffer), "alfa")
    found = UpdateStore(tmp_path).get("alfa", DELTA.layout)
    assert found is not None
    assert found[0].manifest == manifest
    assert found[0].buffer.tobytes() == buffer.tobytes()


def test_a_kept_update_of_another_length_or_encoding_is_not_used(tmp_path: Path) -> None:
    for encoding, buffer in (("raw", DELTA.buffer[:-8]), ("3bit", DELTA.buffer)):
        manifest = UpdateManifest(
            federation="f", run="ab" * 4, client="alfa", base_version=3, num_examples=5,
            layout=DELTA.layout.digest, encoding=encoding, **transfer_fields(buffer),
        )  # fmt: skip
        keep = UpdateStore(tmp_path)
        keep.put(Outgoing(manifest, buffer), "alfa")
        assert keep.get("alfa", DELTA.layout) is None
