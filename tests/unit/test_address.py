"""What a broker URL means."""

from shared.address import HEARTBEAT_S, parameters


def test_the_heartbeat_is_the_urls_or_else_ours() -> None:
    assert parameters("amqp://alfa:x@localhost/f", "test").heartbeat == HEARTBEAT_S
    assert parameters("amqp://alfa:x@localhost/f?heartbeat=4", "test").heartbeat == 4
