"""What is sealed only the coordinator reads, and only in its sender's name."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker_config.secrets.keys import ensure_keys, rotate_keys
from warren_shared.errors import Rejected
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.codec import decode, encode
from warren_shared.protocol.encryption import UpdateDecryptor, UpdateEncryptor
from warren_shared.protocol.messages import Chunk, Join, Sealed

KEY = X25519PrivateKey.generate()
SEALER = UpdateEncryptor(KEY.public_key(), "f", "alfa")
OPENER = UpdateDecryptor([KEY], "f")
JOIN = Join(federation="f", client="alfa")


def joined(body: tuple[bytes | memoryview, ...]) -> bytes:
    return b"".join(body)


def opened(body: bytes, user: str | None = "alfa", opener: UpdateDecryptor = OPENER) -> bytes:
    message, data = decode(body)
    assert isinstance(message, Sealed)
    return opener.open(message, data, user)


@given(st.binary(max_size=2000))
def test_what_was_sealed_comes_out_again(data: bytes) -> None:
    body = encode(Chunk(transfer="ab" * 8, index=1), data)
    sealed = joined(SEALER.seal(body))
    assert opened(sealed) == joined(body)


def test_a_whole_chunk_fits_and_costs_less_than_two_hundred_bytes() -> None:
    body = encode(Chunk(transfer="ab" * 8, index=1), bytes(CHUNK_BYTES))
    sealed = joined(SEALER.seal(body))
    message, data = decode(opened(sealed))
    assert message == Chunk(transfer="ab" * 8, index=1)
    assert data == bytes(CHUNK_BYTES)
    assert len(sealed) - len(joined(body)) < 200


def test_nothing_can_be_read_from_outside() -> None:
    sealed = joined(SEALER.seal(encode(JOIN)))
    assert b"alfa" not in sealed
    assert b"join" not in sealed
    assert joined(SEALER.seal(encode(JOIN))) != sealed, "two alike look different"


@pytest.mark.parametrize("user", ["bravo", None, "alfa.1", ""])
def test_it_is_nothing_in_anothers_name(user: str | None) -> None:
    with pytest.raises(Rejected, match="not encrypted by the user"):
        opened(joined(SEALER.seal(encode(JOIN))), user)


def test_it_is_nothing_in_another_federation() -> None:
    with pytest.raises(Rejected, match="not encrypted by the user"):
        opened(joined(SEALER.seal(encode(JOIN))), "alfa", UpdateDecryptor([KEY], "g"))


@given(st.data())
def test_a_changed_bit_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(joined(SEALER.seal(encode(JOIN))))
    _, inside = decode(bytes(sealed))
    at = len(sealed) - len(inside) + data.draw(st.integers(0, len(inside) - 1))
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Rejected) as error:
        opened(bytes(sealed))
    assert error.value.reason == "sealed"


def test_an_empty_or_short_one_is_rejected() -> None:
    header = Sealed(key="00" * 8)
    with pytest.raises(Rejected, match="newest bundle"):
        opened(joined(encode(header)))
    key = SEALER.seal(encode(JOIN))
    message, _ = decode(joined(key))
    with pytest.raises(Rejected):
        opened(joined(encode(message, b"x")))


def test_the_last_keys_updates_are_still_read_and_those_before_it_are_not(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("home")
    keys = ensure_keys(home)
    sealer = UpdateEncryptor.of(keys.encrypt, "f", "alfa")
    assert sealer is not None
    sealed = joined(sealer.seal(encode(JOIN)))
    keys = rotate_keys(home, keys)
    assert opened(sealed, "alfa", UpdateDecryptor.of(",".join(keys.decrypt), "f")) == joined(
        encode(JOIN)
    )
    keys = rotate_keys(home, keys)
    with pytest.raises(Rejected, match="newest bundle"):
        opened(sealed, "alfa", UpdateDecryptor.of(",".join(keys.decrypt), "f"))
