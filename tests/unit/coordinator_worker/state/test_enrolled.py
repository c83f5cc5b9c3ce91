"""Who may take part, as `broker-config` tells the coordinator."""

import json
from typing import Any

import pytest

from broker_config.broker import enrolment
from broker_config.declaration.federation import Federation, Fleet
from coordinator_worker.state.enrolled import Enrolled
from warren_shared.naming import ENROLLED_MOST

ENROLLED = Enrolled(("hospital-a", "hospital-b"), {"phone": 100, "till": 3})


def test_it_reads_what_broker_config_writes() -> None:
    clients = ("hospital-a", "hospital-b")
    federation = Federation("heart", clients, (Fleet("phone", 100), Fleet("till", 3)))
    assert Enrolled.read(json.dumps(enrolment.message(federation)).encode()) == ENROLLED
    assert Enrolled.from_dict(ENROLLED.to_dict()) == ENROLLED


def test_a_fleet_is_seen_as_soon_as_one_replica_is() -> None:
    assert ENROLLED.unseen(["hospital-b", "phone.17"]) == ["hospital-a", "till"]
    assert ENROLLED.unseen(["hospital-b", "phone", "till.0", "hospital-a", "stranger"]) == []


def test_whom_it_knows() -> None:
    assert all(map(ENROLLED.has, ("hospital-a", "phone.99", "phone")))
    assert not any(map(ENROLLED.has, ("", "unknown", "hospital-c", "hospital-a.1")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b"null",
        b"\xff",
        b"[" * 100_000,
        json.dumps({"format": 2, "clients": [], "fleets": {}}).encode(),
        json.dumps({"format": 1, "clients": 7, "fleets": {}}).encode(),
        json.dumps({"format": 1, "clients": ["a b"], "fleets": {}}).encode(),
        json.dumps({"format": 1, "clients": [["a"]], "fleets": {}}).encode(),
        json.dumps({"format": 1, "clients": [], "fleets": ["phone"]}).encode(),
        json.dumps({"format": 1, "clients": [], "fleets": {"phone": "many"}}).encode(),
        json.dumps({"format": 1, "clients": [], "fleets": {"coordinator": 3}}).encode(),
    ],
)
def test_what_it_cannot_read_is_said(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Enrolled.read(body)


def test_it_is_bounded() -> None:
    names: list[Any] = [f"site-{number}" for number in range(ENROLLED_MOST + 5)]
    read = Enrolled.from_dict({"clients": names, "fleets": dict.fromkeys(names, 1)})
    assert (len(read.clients), len(read.fleets)) == (ENROLLED_MOST, ENROLLED_MOST)
