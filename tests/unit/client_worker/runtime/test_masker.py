"""What a client demands of a federation that masks updates, and what it sends there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client_worker.privacy.terms import Refused
from client_worker.runtime.masker import Masker
from client_worker.settings import ClientSettings
from warren_shared.errors import ConfigError, Rejected
from warren_shared.privacy.mask import FIGURES, add_mask
from warren_shared.protocol.codec import decode, encode
from warren_shared.protocol.encryption import SEEDS, UpdateDecryptor, UpdateEncryptor
from warren_shared.protocol.keys import key_id
from warren_shared.protocol.masking import figures_of, names_digest, terms_digest
from warren_shared.protocol.messages import (
    FigureNames,
    MaskTerms,
    ModelManifest,
    PrivacyTerms,
    Sealed,
    TensorEntry,
)
from warren_shared.tensors.layout import Weights
from warren_shared.tensors.masked_figures import decode as decode_figures
from warren_shared.tensors.update import Update

KEY = X25519PrivateKey.generate()
KEEPER = key_id(KEY.public_key().public_bytes_raw())
PRIVACY = PrivacyTerms(epsilon=2.0, delta=1e-5, clip=1.0, contributions=1, distance=1, rounds=3)
TERMS = MaskTerms(
    keeper=KEEPER, least=3, ring=32, scale=2.0**20, clip=1.0, weights=[2, 1], examples=100, limb=22
)


def manifest(terms: MaskTerms | None = TERMS, **more: Any) -> ModelManifest:
    entry = TensorEntry(name="w", shape=[5], dtype="float32")
    return ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[entry], secure=terms,
        transfer="0123456789abcdef", size_bytes=24, digest=7, content="ab" * 32, **more,
    )  # fmt: skip


def masker(least: int | None = None, *, is_ready: bool = True) -> Masker:
    sealer = UpdateEncryptor(KEY.public_key(), "f", "alfa", SEEDS)
    return Masker("f", sealer, least, is_ready=is_ready)


def other(**change: Any) -> MaskTerms:
    return TERMS.model_copy(update=change)


REFUSED: Mapping[str, tuple[Masker, ModelManifest, str]] = {
    "in clear": (masker(), manifest(None), "asks for them in clear"),
    "no keeper here": (Masker("f", None, None, is_ready=True), manifest(), "names no keeper"),
    "another keeper": (masker(), manifest(other(keeper="ab" * 8)), "ask which one is right"),
    "too few": (masker(4), manifest(), "this one wants 4 or more"),
    "weights that tell": (masker(), manifest(other(weights=[3, 1])), "powers of two"),
    "weights that grow": (masker(), manifest(other(weights=[1, 2])), "the largest first"),
    "no weight for the late": (masker(), manifest(max_staleness=2), "no weights for all late"),
    "no other keys": (masker(is_ready=False), manifest(), "need the coordinator's keys"),
}


@pytest.mark.parametrize(("one", "model", "words"), REFUSED.values(), ids=REFUSED)
def test_a_client_refuses(one: Masker, model: ModelManifest, words: str) -> None:
    with pytest.raises(Refused, match=words):
        one.check(model)


def test_a_client_takes_what_is_as_it_was_enrolled_for() -> None:
    masker(3).check(manifest(max_staleness=1))
    Masker("f", None, None, is_ready=False).check(manifest(None))


def test_least_together_needs_a_keeper() -> None:
    told = ClientSettings(task="x:y", broker_url="amqp://alfa:x@h/f", least_together=3)
    with pytest.raises(ConfigError, match="needs the key of a keeper"):
        Masker.of(told)


def masked(model: ModelManifest, update: Update, client: str = "alfa") -> Any:
    delta = Weights.of([array.copy() for array in update.delta])
    return masker().mask(delta, update, model, client, "feedbeef" * 2)


DELTA = [np.array([0.5, -0.25, 0.0, 0.125, 0.3], np.float32)]


def test_what_is_sent_is_the_update_under_its_mask() -> None:
    update = Update(Weights.of(DELTA), 40, {"loss": 0.5})
    found = masked(manifest(), update)
    integers = found.buffer.view(np.uint32).copy()
    core = found.seed.elements
    key = bytes.fromhex(found.seed.seed)
    assert core == 7  # six of an even number of tensors' words, and one that says the weight
    for part, stream in ((integers[:core], 0), (integers[core:], FIGURES)):
        masks = np.zeros_like(part)
        add_mask(masks, key, stream=stream)
        part -= masks
    steps = integers[:5].view(np.int32) / 2.0**20
    assert np.abs(steps - DELTA[0] * 0.4).max() < 3e-6
    steps_of_weight = 2**22 - 4
    assert 0 <= integers[6] - round(0.4 * steps_of_weight) < 2  # with a random bit, as the vector
    told = decode_figures(integers[core:], figures_of(found.figures), TERMS.limb)
    assert (told.examples, told.metrics["loss"]) == (40, 0.5)


def test_the_seed_says_all_that_the_keeper_checks() -> None:
    update = Update(Weights.of(DELTA), 40, {"loss": 0.5}, not_finite=("mae",))
    found = masked(manifest(privacy=None), update)
    assert found.figures == FigureNames(metrics=["loss", "mae"])
    seed = found.seed
    assert (seed.run, seed.client, seed.base_version) == ("0badcafe", "alfa", 3)
    assert seed.transfer == "feedbeef" * 2
    assert seed.model == "ab" * 32
    assert seed.terms == terms_digest(TERMS, None) != terms_digest(TERMS, PRIVACY)
    assert seed.figures == names_digest(found.figures)
    assert seed.elements + seed.figure_elements == found.buffer.nbytes // 4
    message, data = decode(b"".join(masker().sealed(seed)))
    assert isinstance(message, Sealed)
    opener = UpdateDecryptor((KEY,), "f", SEEDS)
    assert opener.open(message, data, "alfa") == b"".join(encode(seed))
    for user, purpose in (("bravo", SEEDS), ("alfa", "sealed")):
        with pytest.raises(Rejected):
            UpdateDecryptor((KEY,), "f", purpose).open(message, data, user)


def test_two_updates_share_no_seed() -> None:
    update = Update(Weights.of(DELTA), 40)
    assert masked(manifest(), update).seed.seed != masked(manifest(), update).seed.seed


def test_in_a_private_run_nothing_but_weights_is_sent() -> None:
    terms = other(examples=1)
    found = masked(manifest(terms, privacy=PRIVACY), Update(Weights.of(DELTA), 40, {"loss": 1.0}))
    assert found.figures is None
    assert found.seed.figure_elements == 0
    assert found.buffer.nbytes == 6 * 4


def test_what_is_longer_than_the_clip_is_shortened() -> None:
    terms = other(examples=1, weights=[1])
    found = masked(manifest(terms), Update(Weights.of([DELTA[0] * 100]), 40))
    integers = found.buffer.view(np.uint32)[:6].copy()
    masks = np.zeros_like(integers)
    add_mask(masks, bytes.fromhex(found.seed.seed))
    steps = (integers - masks).view(np.int32) / 2.0**20
    assert np.linalg.norm(steps) == pytest.approx(1.0, abs=1e-5)


def test_what_is_not_finite_is_not_sent() -> None:
    with pytest.raises(Rejected, match="not finite"):
        masked(manifest(), Update(Weights.of([DELTA[0] * np.nan]), 40))


def test_a_masked_update_says_nothing_of_the_update() -> None:
    """The bytes of one that is all zeros, and of one that is not, are alike."""
    size = 100_000
    entry = TensorEntry(name="w", shape=[size], dtype="float32")
    model = manifest(other(examples=1, weights=[1])).model_copy(update={"tensors": [entry]})
    for scale in (0.0, 1.0):
        delta = Weights.of([np.full(size, scale / size, np.float32)])
        found = masked(model, Update(delta, 1))
        core = found.buffer[: size * 4]
        counts = np.bincount(core, minlength=256)
        expected = core.size / 256
        assert 160 < float(((counts - expected) ** 2 / expected).sum()) < 370
