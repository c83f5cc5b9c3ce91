"""What a broker URL means."""

import pytest
from pika import exceptions

from shared.address import HEARTBEAT_S, diagnose, parameters
from shared.errors import BrokerRefused, BrokerUnavailable

_CUT = exceptions.StreamLostError("Transport indicated EOF")
_BOOTS = exceptions.ConnectionClosedByBroker(541, "INTERNAL_ERROR - vhost 'f' is down")
_CLOSED = exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED - vhost f not found")
_GUESSES = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)


def test_the_heartbeat_is_the_urls_or_else_ours() -> None:
    assert parameters("amqp://alfa:x@localhost/f", "test").heartbeat == HEARTBEAT_S
    assert parameters("amqp://alfa:x@localhost/f?heartbeat=4", "test").heartbeat == 4


@pytest.mark.parametrize("guess", _GUESSES)
@pytest.mark.parametrize("cause", [_CUT, _BOOTS])
def test_a_broker_that_boots_or_is_killed_while_it_lets_us_in_has_not_refused(
    guess: type[exceptions.AMQPConnectionError], cause: Exception
) -> None:
    error, final = diagnose(guess(repr(cause)), "b")
    assert isinstance(error, BrokerUnavailable)
    assert not final


@pytest.mark.parametrize("guess", _GUESSES)
def test_a_broker_that_says_why_has_refused(guess: type[exceptions.AMQPConnectionError]) -> None:
    error, final = diagnose(guess(repr(_CLOSED)), "b")
    assert isinstance(error, BrokerRefused)
    assert final
