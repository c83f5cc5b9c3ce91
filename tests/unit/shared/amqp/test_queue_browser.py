"""Looking into a queue of a broker that is halted."""

import socket
from typing import Any

import pytest

from warren_shared.amqp import queue_browser
from warren_shared.amqp.address import parameters
from warren_shared.errors import BrokerUnavailable


def test_a_broker_that_stops_answering_in_the_handshake_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def impatient(*told: Any) -> Any:
        found = parameters(*told)
        for one in found:
            one.stack_timeout = 0.3
        return found

    monkeypatch.setattr(queue_browser, "parameters", impatient)
    with socket.create_server(("127.0.0.1", 0)) as halted:  # takes connections, says nothing
        url = f"amqp://a:b@127.0.0.1:{halted.getsockname()[1]}/f"
        with pytest.raises(BrokerUnavailable):
            list(queue_browser.peek(url, "test", "coordinator.newest"))
