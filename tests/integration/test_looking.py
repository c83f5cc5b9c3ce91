"""What the coordinator sees of mailboxes that it may not read."""

from tests.conftest import FLEET, Place
from warren_shared.amqp.delivery import Subscription
from warren_shared.amqp.session import Session
from warren_shared.naming import mailbox
from warren_shared.service.broker_check import first_missing, without_consumer
from warren_shared.tls import Broker


def test_the_coordinator_finds_out_how_many_replicas_a_fleet_has(place: Place) -> None:
    def queue(number: int) -> str:
        return mailbox(f"{FLEET.name}.{number}")

    broker = Broker(place.urls["coordinator"])
    assert first_missing(broker, "test", queue, 0, 10_000) == FLEET.size
    assert first_missing(broker, "test", queue, 5_000, 10_000) == FLEET.size


def test_the_coordinator_sees_which_mailbox_nobody_consumes(place: Place) -> None:
    queues = {client: (mailbox(client),) for client in ("alfa", "bravo")}
    broker = Broker(place.urls["coordinator"])
    assert without_consumer(broker, "test", queues) == ["alfa", "bravo"]
    client = Session.for_broker(
        place.urls["alfa"], "test", Subscription(queues["alfa"], lambda _delivery: None)
    )
    client.start(10.0)
    try:
        assert without_consumer(broker, "test", queues) == ["bravo"]
    finally:
        client.close()
