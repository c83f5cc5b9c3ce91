"""The bytes of each kind of message, pinned: who upgrades one worker still understands the other.

Whoever lets one of these tests fail on purpose: a field or kind that is added gets a mark of the
protocol that it comes with (`shared/protocol/messages.py`), PROTOCOL is raised, a message that uses
it goes into `tests/golden/messages.py`, and ``python -m tests.golden.messages`` prints what belongs
into ``tests/golden/protocol-N.txt``. Golden bytes that are there are never changed.
"""

import msgpack
import pytest

from tests.golden.messages import PROTOCOL_1, PROTOCOLS
from tests.support.bodies import encode
from tests.support.processes import ROOT
from warren_shared.errors import Rejected
from warren_shared.protocol import messages
from warren_shared.protocol.codec import decode
from warren_shared.protocol.messages import OLDEST, PROTOCOL, Signed, Strict, Transfer

GOLDEN = ROOT / "tests" / "golden"
TOLD = "an older worker reads this otherwise: raise PROTOCOL, see the head of this file"
CASES = [(n, name) for n, group in PROTOCOLS.items() for name in group]


def golden(file: str) -> dict[str, bytes]:
    lines = (line.split(": ") for line in (GOLDEN / file).read_text().splitlines())
    return {name: bytes.fromhex(text) for name, text in lines}


@pytest.mark.parametrize(("protocol", "name"), CASES)
def test_a_message_goes_out_as_it_did_when_its_protocol_was_new(protocol: int, name: str) -> None:
    assert encode(PROTOCOLS[protocol][name]) == golden(f"protocol-{protocol}.txt")[name], TOLD


@pytest.mark.parametrize(("protocol", "name"), CASES)
def test_what_was_written_then_means_the_same_today(protocol: int, name: str) -> None:
    found, _ = decode(golden(f"protocol-{protocol}.txt")[name])
    assert found == PROTOCOLS[protocol][name], TOLD


@pytest.mark.parametrize("name", PROTOCOL_1)
def test_the_first_release_wrote_defaults_out_and_means_the_same(name: str) -> None:
    found, _ = decode(golden("protocol-1-as-first-written.txt")[name])
    assert found == PROTOCOL_1[name], TOLD


@pytest.mark.parametrize(("protocol", "name"), CASES)
def test_a_message_is_of_the_lowest_protocol_that_knows_all_it_says(
    protocol: int, name: str
) -> None:
    """So that a feature that nobody uses keeps nobody from reading."""
    assert PROTOCOLS[protocol][name].header()["protocol"] == protocol


def test_every_kind_and_every_field_has_golden_bytes() -> None:
    """Or what somebody adds would be pinned by nothing."""
    assert max(PROTOCOLS) == PROTOCOL, TOLD
    assert min(PROTOCOLS) == OLDEST
    said: dict[type[Strict], set[str]] = {}
    for group in PROTOCOLS.values():
        for one in group.values():
            note(one, said)
    kinds = {
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, Strict) and kind.model_fields
    }
    assert set(said) == kinds - {Transfer, Signed}
    for kind, fields in said.items():
        assert fields == set(kind.model_fields), TOLD


def note(one: Strict, said: dict[type[Strict], set[str]]) -> None:
    """Note which fields of which record are used, in it and in what it holds."""
    used = one.model_dump(exclude_defaults=True)
    said.setdefault(type(one), {"kind"} & set(type(one).model_fields)).update(used)
    for name in used:
        value = getattr(one, name)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Strict):
                note(part, said)


def test_a_message_of_a_protocol_that_is_to_come_names_both_and_what_to_do() -> None:
    news = {**PROTOCOL_1["join"].header(), "protocol": PROTOCOL + 1, "hat": "red"}
    with pytest.raises(Rejected) as told:
        decode(msgpack.packb(news), "this client")
    assert told.value.detail == (
        f"it is of protocol {PROTOCOL + 1}, and this client reads {OLDEST} to {PROTOCOL}:"
        " upgrade this client"
    )
