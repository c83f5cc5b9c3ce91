"""The inbox: in order, and bounded by pausing whoever fills it."""

from coordinator_worker.runtime.inbox import Inbox, ModelPublished, Stop
from warren_shared.amqp.delivery import Delivery
from warren_shared.service.inbox import LIMIT_BYTES


def delivery(tag: int, size: int) -> Delivery:
    return Delivery(memoryview(bytes(size)), tag, 1, "alfa", redelivered=False)


class Reading:
    """A connection that can be paused."""

    def __init__(self) -> None:
        self.paused = False
        self.inbox = Inbox(self.pause, self.resume)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        assert self.paused
        self.paused = False


def test_deliveries_and_events_come_out_in_order() -> None:
    inbox = Reading().inbox
    first, second = delivery(1, 10), delivery(2, 10)
    inbox.deliver(first)
    inbox.put(ModelPublished())
    inbox.deliver(second)
    inbox.put(Stop())
    assert [inbox.get() for _ in range(4)] == [first, ModelPublished(), second, Stop()]


def test_reading_pauses_at_the_limit_and_goes_on_at_half_of_it() -> None:
    connection = Reading()
    for tag in range(7):
        connection.inbox.deliver(delivery(tag, LIMIT_BYTES // 8))
    assert not connection.paused
    connection.inbox.deliver(delivery(7, LIMIT_BYTES // 8))
    assert connection.paused
    for _ in range(3):
        connection.inbox.get()
        assert connection.paused
    connection.inbox.get()
    assert not connection.paused


def test_a_connection_that_came_anew_is_paused_as_well() -> None:
    connection = Reading()
    connection.inbox.deliver(delivery(1, LIMIT_BYTES))
    connection.paused = False  # the link was lost and is back, and a new one reads
    connection.inbox.deliver(delivery(2, LIMIT_BYTES))
    assert connection.paused
