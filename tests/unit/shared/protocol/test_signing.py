"""What the coordinator signed is believed, and nothing that was changed since."""

import base64

import msgpack
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker_config.secrets.keys import Keys, ensure_keys, rotate_keys
from client_worker.runtime.mailbox import Mailbox, ModelCache
from tests.support.bodies import bodies_of, encode
from warren_shared.amqp.delivery import Delivery
from warren_shared.errors import ConfigError, Rejected
from warren_shared.protocol.codec import decode, tensor_entries
from warren_shared.protocol.messages import (
    LocalTraining,
    MaskTerms,
    ModelManifest,
    Notice,
    PrivacyTerms,
)
from warren_shared.protocol.signing import Signer, Verifier, content_digest, signed_bytes
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Layout, Weights

KEY, NEXT, STRANGER = (Ed25519PrivateKey.generate() for _ in range(3))
SIGNER = Signer([KEY])
VERIFIER = Verifier([KEY.public_key()])
LAYOUT = Layout.of([np.zeros(300_000, np.float32)])  # two chunks
WEIGHTS = Weights.empty(LAYOUT)
WEIGHTS[0].fill(1)
MASKS = MaskTerms(
    keeper="cafecafe", least=3, ring=32, scale=1e6, clip=2.0, weights=[1], examples=1, limb=24
)
PRIVACY = PrivacyTerms(epsilon=2.0, delta=1e-5, clip=0.5, contributions=4, distance=30, rounds=120)


def manifest(**fields: object) -> ModelManifest:
    return ModelManifest(
        federation="f", run="ab" * 4, version=3, tensors=tensor_entries(LAYOUT),
        content=content_digest(WEIGHTS.buffer), **transfer_fields(WEIGHTS.buffer), **fields,
    )  # fmt: skip


SETTINGS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    max_size=4,
)


@given(SETTINGS, st.floats(0.01, 1.0))
def test_what_was_signed_is_believed_on_the_other_side_of_the_wire(
    config: dict[str, object], share: float
) -> None:
    signed = SIGNER.sign(manifest(config=config, participation=share))
    received, _ = decode(encode(signed))
    assert received == signed
    VERIFIER.check(received)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 4},
        {"run": "cd" * 4},
        {"federation": "g"},
        {"content": "00" * 32},
        {"tensors": manifest().tensors * 2},
        {"config": {"learning_rate": 1e9}},
        {"local": LocalTraining(epochs=1000)},
        {"final": True},
        {"transfer": "ef" * 8},
        {"downlink": "1bit"},
        {"base": 2},
        {"weights_digest": 7},
        {"privacy": PRIVACY},
        {"secure": MASKS},
    ],
)
def test_nothing_of_a_model_can_be_changed(change: dict[str, object]) -> None:
    forged = SIGNER.sign(manifest()).model_copy(update=change)
    with pytest.raises(Rejected, match="not the coordinator's"):
        VERIFIER.check(forged)


def test_every_field_of_a_header_is_signed() -> None:
    """Also those that a later version adds: what is signed is what travels."""
    everything = manifest(
        config={"seed": 1}, local=LocalTraining(proximal=0.1), max_staleness=1, participation=0.5,
        final=True, fixed_state={"vocabulary": "cafe" * 4}, uplink="1bit", downlink="1bit",
        base=2, weights_digest=7, privacy=PRIVACY, secure=MASKS,
    )  # fmt: skip
    said = msgpack.unpackb(signed_bytes(everything).partition(b"\n")[2])
    assert set(said) == set(ModelManifest.model_fields) - {"signatures"}


def test_a_field_that_was_added_and_is_not_used_changes_no_signature() -> None:
    class Later(ModelManifest):
        news: int = 0

    said = manifest()
    assert signed_bytes(Later(**dict(said))) == signed_bytes(said)
    assert signed_bytes(Later(**dict(said), news=1)) != signed_bytes(said)


def test_a_strangers_signature_is_not_believed() -> None:
    with pytest.raises(Rejected, match="not in this client's bundle"):
        VERIFIER.check(Signer([STRANGER]).sign(manifest()))


def test_a_strangers_signature_under_the_coordinators_name_is_not_believed() -> None:
    (ours,) = SIGNER.sign(manifest()).signatures
    (forged,) = Signer([STRANGER]).sign(manifest()).signatures.values()
    with pytest.raises(Rejected, match="not the coordinator's"):
        VERIFIER.check(manifest(signatures={ours: forged}))


def test_what_is_not_signed_is_not_believed() -> None:
    with pytest.raises(Rejected, match="not signed"):
        VERIFIER.check(manifest())


def test_a_model_is_no_notice() -> None:
    signed = SIGNER.sign(Notice(notice="join"))
    with pytest.raises(Rejected):
        VERIFIER.check(manifest(signatures=signed.signatures))


def test_old_and_new_bundles_are_served_while_keys_change() -> None:
    rotating = Signer([NEXT, KEY]).sign(manifest())
    for known in ([KEY], [NEXT], [NEXT, KEY]):
        Verifier([key.public_key() for key in known]).check(rotating)


def test_keys_as_broker_config_writes_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    first = ensure_keys(home)
    assert ensure_keys(home) == first
    second = rotate_keys(home, first)
    for keys in (first, second):
        signer, verifier = Signer.of(",".join(keys.signing)), Verifier.of(",".join(keys.verify))
        assert signer is not None
        assert verifier is not None
        verifier.check(signer.sign(manifest()))
    assert len(rotate_keys(home, second).signing) == 2


def test_keys_that_are_damaged_are_named_and_not_shown() -> None:
    secret = Keys((base64.b64encode(b"short").decode(),), ()).signing[0]
    for text in (secret, "not base64 at all", secret + "," + secret):
        with pytest.raises(ConfigError) as error:
            Signer.of(text)
        assert "WARREN_SIGNING_KEYS" in str(error.value)
        assert text not in str(error.value)


class Client:
    """A mailbox that believes only what is signed."""

    def __init__(self, shelf: ModelCache | None = None) -> None:
        self.torn = 0
        self.mailbox = Mailbox("f", lambda: None, self._tear, shelf, VERIFIER)
        self.mailbox.expect(LAYOUT)

    def _tear(self) -> None:
        self.torn += 1

    def receive(self, *bodies: bytes) -> bool:
        for tag, body in enumerate(bodies, start=1):
            delivery = Delivery(memoryview(body), tag, 1, "coordinator", redelivered=False)
            self.mailbox.deliver(delivery)
        return self.mailbox.take() is not None


def bodies(signed: ModelManifest, weights: Weights = WEIGHTS) -> list[bytes]:
    return bodies_of(Outgoing(signed, weights.buffer))


def test_a_client_takes_a_signed_model_and_no_other() -> None:
    client = Client()
    assert client.receive(*bodies(SIGNER.sign(manifest())))
    assert not client.receive(*bodies(manifest()))
    assert not client.receive(*bodies(Signer([STRANGER]).sign(manifest())))
    assert client.torn == 0, "to ask for it again would bring the same"
    assert client.receive(*bodies(SIGNER.sign(manifest())))


def test_other_weights_under_a_genuine_header_are_not_taken() -> None:
    other = Weights.empty(LAYOUT)
    other[0].fill(2)
    signed = SIGNER.sign(manifest())
    client = Client()
    assert not client.receive(*bodies(signed, other))
    # Nor with the digest that everybody can compute: that one is signed too.
    forged = signed.model_copy(update={"digest": transfer_fields(other.buffer)["digest"]})
    assert not client.receive(*bodies(forged, other))
    assert client.torn == 1


def test_a_signed_header_that_does_not_name_the_weights_is_not_enough() -> None:
    signed = SIGNER.sign(manifest().model_copy(update={"content": None}))
    assert not Client().receive(*bodies(signed))


def test_a_notice_is_believed_only_when_it_is_signed() -> None:
    client = Client()
    client.receive(encode(Notice(notice="send-initial")))
    assert client.mailbox.notices() == []
    genuine = SIGNER.sign(Notice(notice="send-initial"))
    client.receive(encode(genuine))
    assert client.mailbox.notices() == [genuine]


def test_a_forged_notice_does_not_tear_a_genuine_model() -> None:
    first, second = bodies(SIGNER.sign(manifest()))
    assert Client().receive(first, encode(Notice(notice="join")), second)


def test_without_keys_everything_is_taken_as_before() -> None:
    assert Signer.of(None) is None
    assert Verifier.of("") is None


def test_bytes_slipped_into_another_mailbox_of_the_process_are_noticed() -> None:
    """Virtual clients share a model's buffer, and the broker fills each one's mailbox."""
    shelf = ModelCache()
    one, other = Client(shelf), Client(shelf)
    first, second = bodies(SIGNER.sign(manifest()))
    slipped = bytearray(first)
    slipped[-1] ^= 1
    assert not one.receive(first)
    assert not other.receive(bytes(slipped))
    assert not one.receive(second)
    assert one.torn == 1
    assert one.receive(first, second), "asked for again, it comes whole"
    assert other.receive(first, second)
