"""What is told, when, and once."""

from coordinator_worker.monitoring.alarms import Alarms
from coordinator_worker.monitoring.client_view import Client
from coordinator_worker.monitoring.federation_view import FederationView


def view(**clients: Client) -> FederationView:
    found = FederationView("wards")
    found.version, found.alive_s = 20, 15.0
    found.clients = dict(clients)
    return found


def there(version: int = 20) -> Client:
    client = Client(joined=1.0, updates=3, version=version)
    client.rounds[version] = 0
    return client


def told(alarms: Alarms, now: float, found: FederationView, silence_s: float = 0.0,
         notice: str = "") -> list[tuple[str, str, bool]]:  # fmt: skip
    return [
        (one.kind, one.about, one.is_over) for one in alarms.look(found, silence_s, notice, now)
    ]


def test_a_site_that_is_gone_is_told_once_and_its_return_too() -> None:
    alarms = Alarms(60.0)
    client = there()
    client.away = True
    found = view(alfa=client, bravo=there())
    assert told(alarms, 0.0, found) == []
    assert told(alarms, 59.0, found) == []
    assert told(alarms, 61.0, found) == [("site", "alfa", False)]
    assert told(alarms, 300.0, found) == []
    client.away = False
    assert told(alarms, 301.0, found) == [("site", "alfa", True)]
    assert told(alarms, 302.0, found) == []


def test_what_passes_by_itself_is_not_told() -> None:
    alarms = Alarms(60.0)
    client = there()
    for now in range(0, 600, 40):
        client.away = not client.away
        assert told(alarms, float(now), view(alfa=client)) == []


def test_without_the_coordinator_or_the_broker_nothing_else_is_told() -> None:
    away = there()
    away.away = True
    found = view(alfa=away)
    alarms = Alarms(0.0)
    assert told(alarms, 0.0, found, silence_s=50.0) == [("coordinator", "", False)]
    assert told(alarms, 1.0, found, notice="the broker is away") == [("broker", "", False)]
    assert told(alarms, 2.0, found, silence_s=50.0) == [("broker", "", True)]


def test_what_nobody_knows_any_more_is_not_over() -> None:
    away = there()
    away.away = True
    found = view(alfa=away)
    found.trouble["rejected"] = "what every client sent was rejected"
    alarms = Alarms(3.0)
    assert told(alarms, 0.0, found) == []
    assert told(alarms, 3.0, found) == [("waits", "rejected", False), ("site", "alfa", False)]
    found.stopped = True
    assert told(alarms, 4.0, found) == []
    assert told(alarms, 7.0, found) == [("coordinator", "", False)]
    found.stopped, away.away = False, False
    assert told(alarms, 8.0, found) == [("site", "alfa", True), ("coordinator", "", True)]
    found.trouble.clear()
    assert told(alarms, 9.0, found) == [("waits", "rejected", True)]


def test_one_that_has_left_or_was_in_no_round_for_long() -> None:
    left, gone = there(), there(version=2)
    left.trouble = "left: its model differs"
    assert sorted(told(Alarms(0.0), 0.0, view(alfa=left, bravo=gone, charlie=there()))) == [
        ("site", "alfa", False),
        ("site", "bravo", False),
    ]


def test_a_coordinator_that_was_stopped_and_one_that_waits() -> None:
    found = view(alfa=there())
    found.trouble["disk"] = "the coordinator waits: no space"
    assert told(Alarms(0.0), 0.0, found) == [("waits", "disk", False)]
    found.stopped = True
    assert told(Alarms(0.0), 0.0, found) == [("coordinator", "", False)]
    found.finished = True
    assert told(Alarms(0.0), 0.0, found) == []
