"""Masks of updates: AES-256 in counter mode under a seed that is used once.

A mask is as good as random to whoever lacks its seed, so a vector plus its mask, modulo the size of
the ring, tells nothing of the vector; and the sum of many masks is all it takes to read the sum of
the vectors (Bonawitz et al. 2017, "Practical Secure Aggregation", with one keeper of the seeds in
the place of shares). Figures have a stream of their own, so that they can be added up for some of
the updates only.
"""

import secrets
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[Any]  # of uint16 or uint32

SEED_BYTES: Final = 32
PIECE_BYTES: Final = 1 << 18  # of a mask at once: it stays in the cache
WEIGHTS, FIGURES = 0, 1  # the streams of a seed

_BLOCK_BYTES: Final = 16
_ZEROS: Final = bytes(PIECE_BYTES)


def new_seed() -> bytes:
    """A seed that nobody else has."""
    return secrets.token_bytes(SEED_BYTES)


def add_mask(total: Ring, seed: bytes, weight: int = 1, stream: int = WEIGHTS) -> None:
    """Add ``weight`` times the mask of ``seed`` to ``total``, in place, modulo its dtype."""
    if len(seed) != SEED_BYTES:
        raise ValueError("a seed has 32 bytes")
    # Here, since a worker of a federation without masks does without its 7 MB.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    counter = (stream << 96).to_bytes(_BLOCK_BYTES, "big")
    cipher = Cipher(algorithms.AES(seed), modes.CTR(counter)).encryptor()
    piece = bytearray(min(PIECE_BYTES, total.nbytes) + _BLOCK_BYTES)
    step = PIECE_BYTES // total.itemsize
    dtype = total.dtype.newbyteorder("<")
    for start in range(0, total.size, step):
        here = total[start : start + step]
        cipher.update_into(memoryview(_ZEROS)[: here.nbytes], piece)
        mask = np.frombuffer(piece, dtype, here.size)
        np.add(here, mask if weight == 1 else mask * total.dtype.type(weight), out=here)
