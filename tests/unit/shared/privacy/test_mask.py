"""Masks: as good as random without their seed, and gone from a sum that is subtracted."""

import numpy as np
import pytest

from warren_shared.privacy.mask import FIGURES, PIECE_BYTES, add_mask, new_seed

SEED = bytes(range(32))


def mask(
    size: int, seed: bytes = SEED, weight: int = 1, *, dtype: type = np.uint32, stream: int = 0
) -> np.ndarray:
    total = np.zeros(size, dtype)
    add_mask(total, seed, weight, stream)
    return total


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("size", [1, 7, PIECE_BYTES // 4, PIECE_BYTES // 2 + 5, 300_001])
def test_what_is_added_is_gone_when_it_is_subtracted(dtype: type, size: int) -> None:
    values = np.arange(size, dtype=np.uint64).astype(dtype)
    total = values.copy()
    seeds = [new_seed() for _ in range(3)]
    for number, seed in enumerate(seeds, start=1):
        add_mask(total, seed, number)
    masks = np.zeros(size, dtype)
    for number, seed in enumerate(seeds, start=1):
        add_mask(masks, seed, number)
    assert (total - masks == values).all()


def test_a_mask_is_its_seeds_and_its_streams_alone() -> None:
    assert (mask(1000) == mask(1000)).all()
    assert (mask(2000)[:1000] == mask(1000)).all()
    for other in (mask(1000, bytes(32)), mask(1000, stream=FIGURES)):
        assert np.count_nonzero(mask(1000) == other) < 3


def test_a_weight_multiplies_modulo_the_ring() -> None:
    assert (mask(1000, weight=16) == mask(1000) * np.uint32(16)).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_its_bytes_are_uniform_whatever_it_hides(dtype: type) -> None:
    hidden = np.zeros(1 << 18, dtype)  # what an update that says nothing would be
    add_mask(hidden, SEED)
    counts = np.bincount(hidden.view(np.uint8), minlength=256)
    expected = hidden.nbytes / 256
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert 160 < chi_squared < 370  # of 255 degrees of freedom, p from .999999 to .000003


def test_masks_of_one_client_in_two_versions_are_unlike() -> None:
    one, other = (mask(1 << 16, new_seed()).astype(np.float64) for _ in range(2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


def test_a_seed_is_fresh_and_has_256_bits() -> None:
    seeds = {new_seed() for _ in range(1000)}
    assert len(seeds) == 1000
    ones = sum(int.from_bytes(seed, "big").bit_count() for seed in seeds)
    assert abs(ones / 256_000 - 0.5) < 0.005
    with pytest.raises(ValueError, match="32 bytes"):
        add_mask(np.zeros(4, np.uint32), b"short")
