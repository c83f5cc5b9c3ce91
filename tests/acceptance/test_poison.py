"""Messages that an enrolled client sends with its own login, and that nobody could read."""

from collections.abc import Callable
from pathlib import Path

import msgpack
import pika
import pytest

from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.hostile import TIMESTAMP, deep, nested, raw_headers
from tests.support.processes import workers

JOIN = {"protocol": 1, "kind": "join", "client": "alfa"}
POISON: dict[str, tuple[dict[str, object], Callable[[str], bytes]]] = {
    "a time stamp out of range": (
        {"x": TIMESTAMP},
        lambda name: msgpack.packb(JOIN | {"federation": name}),
    ),
    "tables in tables": (
        {"x": nested(1500)},
        lambda name: msgpack.packb(JOIN | {"federation": name}),
    ),
    "lists for a protocol": ({}, lambda _name: msgpack.packb({"protocol": deep(900)})),
    "lists in a field": (
        {},
        lambda name: msgpack.packb(JOIN | {"federation": name, "fixed_state": {"a": deep(900)}}),
    ),
    "nothing at all": ({}, lambda _name: b""),
    "no msgpack": ({}, lambda _name: b"\xc1" * 100),
}


@pytest.mark.parametrize("name", POISON)
def test_no_single_message_ends_the_coordinator(place: Place, tmp_path: Path, name: str) -> None:
    headers, body = POISON[name]
    with pika.BlockingConnection(pika.URLParameters(place.urls["alfa"])) as connection:
        properties = pika.BasicProperties(user_id="alfa", delivery_mode=2, headers=headers)
        with raw_headers():
            connection.channel().basic_publish("update", "update", body(place.name), properties)
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1", "--rounds", "2")
        started.append(coordinator)
        rejected = coordinator.wait_for("update_rejected")
        assert rejected["client"] == "alfa"
        assert len(rejected["message"]) < 400
        client = start_client(place, "bravo", "line")
        started.append(client)
        assert [worker.end() for worker in started] == [0, 0]
    assert coordinator.said.count("update_rejected") == 1, "settled, not delivered again"
