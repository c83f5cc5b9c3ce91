"""The client's mailbox: the newest whole model wins, and a torn one is asked for again."""

import itertools
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_worker.runtime.mailbox import Announcement, GlobalModel, Mailbox
from tests.support.bodies import bodies_of, encode
from warren_shared.amqp.delivery import Delivery
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.codec import tensor_entries
from warren_shared.protocol.messages import Join, ModelManifest, Notice
from warren_shared.protocol.transfer import Outgoing, digest, transfer_fields
from warren_shared.tensors.layout import Buffer, Layout, Weights
from warren_shared.tensors.model_change import ModelChange, change_id, encoded_change

LAYOUT = Layout.of([np.zeros(CHUNK_BYTES // 4 + 9, np.float32)])  # two chunks
RUN = "ab" * 4


def model(
    version: int, layout: Layout = LAYOUT, federation: str = "f", run: str = RUN
) -> list[bytes]:
    weights = Weights.empty(layout)
    weights[0].fill(version)
    manifest = ModelManifest(
        federation=federation, run=run, version=version, tensors=tensor_entries(layout),
        **transfer_fields(weights.buffer),
    )  # fmt: skip
    return bodies_of(Outgoing(manifest, weights.buffer))


class Client:
    """A mailbox with what it told its worker."""

    def __init__(self, layout: Layout | None = LAYOUT) -> None:
        self.woken = self.torn = self.missed = 0
        self.mailbox = Mailbox("f", self._wake, self._tear, lacks_base=self._miss)
        if layout is not None:
            self.mailbox.expect(layout)

    def _wake(self) -> None:
        self.woken += 1

    def _tear(self) -> None:
        self.torn += 1

    def _miss(self) -> None:
        self.missed += 1

    def receive(self, *bodies: bytes) -> None:
        for tag, body in enumerate(bodies, start=1):
            self.mailbox.deliver(
                Delivery(memoryview(body), tag, 1, "coordinator", redelivered=False)
            )

    def version(self) -> int | None:
        taken = self.mailbox.take()
        return None if taken is None else taken.manifest.version


@pytest.fixture
def client() -> Client:
    return Client()


def test_a_model_is_there_when_its_last_chunk_is(client: Client) -> None:
    first, second = model(3)
    client.receive(first)
    assert client.mailbox.take() is None
    client.receive(second)
    assert client.woken == 1
    taken = client.mailbox.take()
    assert taken is not None
    assert taken.manifest.version == 3
    assert (taken.weights[0] == 3).all()
    assert client.mailbox.take() is None, "it is taken once"
    assert client.mailbox.bytes_received == len(first) + len(second)


def test_the_newest_of_two_models_is_taken_and_the_other_never(client: Client) -> None:
    client.receive(*model(3), *model(4))
    assert client.mailbox.newest_version(RUN) == 4
    assert client.mailbox.newest_version("cd" * 4) == -1
    assert client.version() == 4
    assert client.version() is None
    assert client.mailbox.newest_version(RUN) == -1


def test_a_model_that_is_trained_on_stays_as_it_is_while_the_next_arrives(client: Client) -> None:
    client.receive(*model(3))
    taken = client.mailbox.take()
    client.receive(*model(4))
    assert taken is not None
    assert (taken.weights[0] == 3).all()


def test_a_manifest_that_comes_before_the_last_model_is_whole_takes_its_place(
    client: Client,
) -> None:
    old, new = list(model(3)), list(model(4))
    client.receive(old[0], new[0], old[1], new[1])
    assert client.version() == 4
    assert client.torn == 0


def test_a_model_without_its_beginning_is_passed_over(client: Client) -> None:
    client.receive(list(model(3))[1], *model(4))
    assert client.version() == 4
    assert client.torn == 0


def test_a_model_with_a_hole_is_torn_and_asked_for_again() -> None:
    client = Client(layout := Layout.of([np.zeros(CHUNK_BYTES // 2 + 9, np.float32)]))
    first, _, third = model(3, layout)
    client.receive(first, third)
    assert client.torn == 1
    assert client.version() is None
    client.receive(*model(3, layout))
    assert client.version() == 3


def test_damaged_bytes_are_torn_too(client: Client) -> None:
    first, second = model(3)
    client.receive(first, second[:-1] + bytes([second[-1] ^ 1]))
    client.receive(b"\xc1")
    assert client.torn == 2
    assert client.version() is None


def test_a_model_of_another_federation_is_not_taken(client: Client) -> None:
    client.receive(*model(3, federation="g"))
    assert client.version() is None
    assert client.torn == 1


def test_of_a_model_of_another_layout_the_manifest_is_kept(client: Client) -> None:
    client.receive(*model(3, Layout.of([np.zeros(4, np.float32)])))
    assert (client.woken, client.torn) == (1, 0)
    taken = client.mailbox.take()
    assert isinstance(taken, Announcement)
    assert taken.manifest.version == 3
    assert client.mailbox.take() is None


def test_what_came_before_the_layout_is_known_is_there_when_it_is() -> None:
    """A replica makes its task late, and its coordinator may have ended by then."""
    client = Client(layout=None)
    client.receive(*model(3), encode(Notice(notice="join")))
    assert client.version() is None
    assert len(client.mailbox.notices()) == 1
    client.mailbox.expect(Layout.of([np.zeros(CHUNK_BYTES // 4 + 9, np.float32)], ["w"]))
    taken = client.mailbox.take()
    assert isinstance(taken, GlobalModel)
    assert taken.manifest.version == 3
    assert taken.weights.layout.tensors[0].name == "w"
    assert taken.weights[0][0] == 3


def test_what_came_before_and_is_of_another_layout_is_only_announced() -> None:
    client = Client(layout=None)
    client.receive(*model(3))
    client.mailbox.expect(Layout.of([np.zeros(4, np.float32)]))
    assert isinstance(client.mailbox.take(), Announcement)


def test_notices_are_told_once_and_in_order(client: Client) -> None:
    notices = [Notice(notice="join"), Notice(notice="rejected", reason="stale")]
    client.receive(*map(encode, notices))
    assert client.woken == 2
    assert client.mailbox.notices() == notices
    assert client.mailbox.notices() == []


def test_what_no_coordinator_says_is_ignored(client: Client) -> None:
    client.receive(encode(Join(federation="f", client="alfa")))
    assert (client.woken, client.torn) == (0, 0)


SENT = {version: list(model(version)) for version in (1, 2, 3)}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.integers(0, 1)), max_size=12))
def test_a_model_is_whole_exactly_if_its_chunks_followed_each_other(
    order: list[tuple[int, int]],
) -> None:
    """Whatever a mailbox that overflowed has kept: no model is ever made of two."""
    client = Client()
    for version, index in order:
        client.receive(SENT[version][index])
    whole = None
    for version in (1, 2, 3):
        began = None
        for place, (other, index) in enumerate(order):
            if index == 0:
                began = place if other == version else None
            elif other == version and began is not None:
                whole, began = max(whole or (0, 0), (place, version)), None
    taken = client.mailbox.take()
    assert (taken.manifest.version if taken else None) == (whole[1] if whole else None)
    if taken is not None:
        assert (taken.weights[0] == taken.manifest.version).all()
    assert client.torn == 0


def test_a_mailbox_holds_one_model_however_many_came(client: Client) -> None:
    client.receive(*itertools.chain.from_iterable(SENT[version] for version in (1, 2, 3) * 5))
    assert client.version() == 3
    assert client.version() is None


class Chain:
    """A coordinator that sends its models as changes in one bit a parameter."""

    def __init__(self) -> None:
        self.weights = [Weights.empty(LAYOUT)]
        self.changes: list[ModelChange | None] = [None]
        draw = np.random.default_rng(5)
        for version in range(1, 8):
            new = Weights.of(
                [draw.standard_normal(t.shape).astype(t.dtype) for t in LAYOUT.tensors]
            )
            change, sent = encoded_change(self.weights[-1], new, "1bit", change_id(RUN, version))
            self.weights.append(sent)
            self.changes.append(change)

    def whole(self, version: int, run: str = RUN) -> list[bytes]:
        return self._bodies(version, self.weights[version].buffer, run=run)

    def change(self, version: int, **fields: object) -> list[bytes]:
        change = self.changes[version]
        assert change is not None
        digests = {"base": version - 1, "weights_digest": digest(self.weights[version].buffer)}
        return self._bodies(version, change.code, change.transfer, **{**digests, **fields})

    def _bodies(
        self, version: int, buffer: Buffer, transfer: str | None = None, **fields: object
    ) -> list[bytes]:
        told = {"run": RUN, **transfer_fields(buffer, transfer), **fields}
        manifest = ModelManifest(
            federation="f", version=version, tensors=tensor_entries(LAYOUT), downlink="1bit",
            **told,
        )  # fmt: skip
        return bodies_of(Outgoing(manifest, buffer))

    def is_held_by(self, client: Client, version: int) -> bool:
        taken = client.mailbox.take()
        assert isinstance(taken, GlobalModel)
        assert taken.manifest.version == version
        return taken.weights.buffer.tobytes() == self.weights[version].buffer.tobytes()


CHAIN = Chain()


def test_changes_lead_from_model_to_model(client: Client) -> None:
    client.receive(*CHAIN.whole(0))
    for version in (1, 2):
        client.receive(*CHAIN.change(version))
        assert CHAIN.is_held_by(client, version)
    client.receive(*CHAIN.change(3), *CHAIN.change(4), *CHAIN.change(5))  # while we trained
    assert CHAIN.is_held_by(client, 5)
    assert (client.missed, client.torn) == (0, 0)


def test_the_model_that_is_trained_on_stays_as_it_is_while_a_change_comes(client: Client) -> None:
    client.receive(*CHAIN.whole(0))
    taken = client.mailbox.take()
    assert taken is not None
    client.receive(*CHAIN.change(1))
    assert not taken.weights[0].any()


@pytest.mark.parametrize("before", [[], CHAIN.whole(1), CHAIN.whole(2, run="cd" * 4)])
def test_a_change_to_what_is_not_here_is_not_taken_and_the_whole_is_asked_for(
    client: Client, before: list[bytes]
) -> None:
    client.receive(*before)
    client.mailbox.take()
    client.receive(*CHAIN.change(3))
    assert client.mailbox.take() is None
    assert (client.missed, client.torn) == (1, 0)
    client.receive(*CHAIN.whole(3), *CHAIN.change(4))
    assert CHAIN.is_held_by(client, 4)
    assert client.missed == 1


def test_a_change_that_leads_to_what_is_here_is_passed_over(client: Client) -> None:
    """The answer to our join may overtake nothing, but the change to it came before."""
    client.receive(*CHAIN.whole(0), *CHAIN.whole(4))
    client.mailbox.take()
    client.receive(*CHAIN.change(3), *CHAIN.change(4))
    assert client.mailbox.take() is None
    assert (client.missed, client.torn) == (0, 0)
    client.receive(*CHAIN.change(5))
    assert CHAIN.is_held_by(client, 5)


def test_a_change_that_leads_elsewhere_than_announced_is_torn(client: Client) -> None:
    client.receive(*CHAIN.whole(0), *CHAIN.change(1, weights_digest=7))
    assert client.torn == 1
    assert CHAIN.is_held_by(client, 0)
    client.receive(*CHAIN.change(2))  # it has nothing to lead on from
    assert client.missed == 1


def test_a_base_of_other_bits_is_found_out(client: Client) -> None:
    """As after a rollback to a backup: the same run and version, and another model."""
    client.receive(*model(0))
    client.receive(*CHAIN.change(1))
    assert client.missed == 1, "a model without a downlink is no base"
    other = Weights.of([np.ones(t.shape, t.dtype) for t in LAYOUT.tensors], LAYOUT)
    client.receive(*CHAIN._bodies(0, other.buffer), *CHAIN.change(1))
    assert client.torn == 1


def test_where_models_come_whole_no_base_is_kept(client: Client) -> None:
    client.receive(*model(3))
    taken = client.mailbox.take()
    assert isinstance(taken, GlobalModel)
    gone = weakref.ref(taken.shelved)
    del taken
    assert gone() is None
