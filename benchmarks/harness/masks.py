"""Masked updates in one process: what each side computes, and what travels."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from client_worker.runtime.masker import Masked, Masker
from coordinator_worker.aggregation.masked_cohort import MaskedCohort, Masking
from warren_shared.privacy.mask import add_mask
from warren_shared.protocol.codec import encode, tensor_entries
from warren_shared.protocol.encryption import SEEDS, UpdateEncryptor
from warren_shared.protocol.keys import key_id
from warren_shared.protocol.messages import MaskTerms, ModelManifest, UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Weights, bytes_of
from warren_shared.tensors.ring import encoding_of, largest_scale, limb_bits
from warren_shared.tensors.update import Update

RUN: Final = "ab" * 4
CLIP: Final = 10.0
REPETITIONS: Final = 7


@dataclass(frozen=True)
class Desk:
    """One model of ``size`` float32, and how its updates are masked for sums of ``updates``."""

    size: int
    updates: int
    ring: Literal[16, 32] = 32
    key: X25519PublicKey = field(default_factory=lambda: X25519PrivateKey.generate().public_key())

    @property
    def delta(self) -> Weights:
        """An update of norm 1, about."""
        draw = np.random.default_rng(0).standard_normal(self.size, np.float32)
        return Weights.of([draw / np.float32(np.sqrt(self.size))])

    def manifest(self, delta: Weights) -> ModelManifest:
        """Of the model that it was trained from."""
        limb = limb_bits(self.ring, self.updates, 1)
        terms = MaskTerms(
            keeper=key_id(self.key.public_bytes_raw()),
            least=3, ring=self.ring, clip=CLIP, weights=[1], examples=1, limb=limb,
            scale=largest_scale(delta.layout, self.ring, CLIP, limb, 1),
        )  # fmt: skip
        return ModelManifest(
            federation="f", run=RUN, version=0, tensors=tensor_entries(delta.layout), secure=terms,
            transfer=RUN, size_bytes=delta.buffer.nbytes, digest=0, content="ab" * 32,
        )  # fmt: skip

    def sealer(self, purpose: str) -> UpdateEncryptor:
        """As a client seals what it sends."""
        return UpdateEncryptor(self.key, "f", "alfa", purpose)

    def masked(self, delta: Weights, manifest: ModelManifest) -> Masked:
        """What a client makes of ``delta``."""
        masker = Masker("f", self.sealer(SEEDS), None, is_ready=True)
        return masker.mask(delta, Update(delta, 1), manifest, "alfa", RUN)


class Row:
    """A masked update in memory."""

    def __init__(self, masked: Masked) -> None:
        self._data = bytes_of(masked.buffer)

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """All of it at once."""
        yield 0, self._data

    def read(self, start: int, into: memoryview) -> None:
        """Copy the bytes from ``start`` on until ``into`` is full."""
        into[:] = self._data[start : start + len(into)]

    def release(self) -> None:
        """Nothing is held."""


def client_ms_per_mb(size: int, ring: Literal[16, 32] = 32) -> list[float]:
    """What a client computes beyond an update in clear, for each MB of float32."""
    desk = Desk(size, 20, ring)
    delta = desk.delta
    manifest = desk.manifest(delta)
    spent = _spent(lambda: desk.masked(delta, manifest))
    return [seconds * 1e3 / (4 * size / 1e6) for seconds in spent]


def servers_s(size: int, updates: int) -> list[float]:
    """Processor seconds of coordinator and keeper for one sum, without the wire."""
    desk = Desk(size, updates)
    delta = desk.delta
    manifest = desk.manifest(delta)
    masked = desk.masked(delta, manifest)
    if manifest.secure is None:
        raise RuntimeError("no terms")
    masking = Masking(manifest.secure, RUN)
    seed = bytes.fromhex(masked.seed.seed)
    elements = masked.seed.elements

    def round_of_both() -> None:
        cohort = MaskedCohort(delta.layout, masking)
        for _ in range(updates):
            cohort.take(Row(masked), 1, None)
        masks = np.zeros(elements, np.uint32)
        for _ in range(updates):
            add_mask(masks, seed)
        cohort.begin_unmasking([])
        cohort.subtract(0, memoryview(masks.tobytes()))
        cohort.finish()
        cohort.delta()

    return _spent(round_of_both)


def wire_ratio(size: int, ring: Literal[16, 32]) -> float:
    """Bytes that a client sends, seed and seals and headers, over those of raw float32 tensors."""
    desk = Desk(size, 20, ring)
    delta = desk.delta
    manifest = desk.manifest(delta)
    masked = desk.masked(delta, manifest)
    update = UpdateManifest(
        federation="f", run=RUN, client="alfa", base_version=0, num_examples=1,
        layout=delta.layout.digest, encoding=encoding_of(ring), figures=masked.figures,
        **transfer_fields(masked.buffer, RUN),  # type: ignore[arg-type]
    )  # fmt: skip
    bodies = [desk.sealer("sealed").seal(body) for body in Outgoing(update, masked.buffer)]
    bodies.append(desk.sealer(SEEDS).seal(encode(masked.seed)))
    return sum(len(piece) for body in bodies for piece in body) / (4 * size)


def _spent(work: Callable[[], object]) -> list[float]:
    work()  # pages are taken, and code is loaded
    found = []
    for _ in range(REPETITIONS):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return found
