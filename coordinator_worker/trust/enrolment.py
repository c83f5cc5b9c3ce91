"""Who is enrolled, as `broker-config` leaves it in the queue ``coordinator.enrolled``."""

from coordinator_worker.state.enrolled import Enrolled
from warren_shared.amqp.queue_browser import peek
from warren_shared.errors import BrokerRefused, BrokerUnavailable
from warren_shared.naming import ENROLLED_QUEUE
from warren_shared.observability.log import Log
from warren_shared.tls import Broker

log = Log(__name__)


class EnrolmentReader:
    """Looks at the queue over a connection ``name`` of its own, once for each ``look``."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self._name = name
        self._said = ""

    def look(self) -> Enrolled | None:
        """Who is enrolled; None if nobody says so, for whatever reason."""
        try:
            found = [letter.body for letter in peek(self._broker, self._name, ENROLLED_QUEUE)]
            return Enrolled.read(found[-1]) if found else None
        except BrokerRefused as refused:
            self._say(f"{refused}: run `broker-config apply` once")
        except ValueError as error:
            self._say(f"{ENROLLED_QUEUE} holds what cannot be read, {error}")
        except BrokerUnavailable:
            pass  # the next look finds it
        return None

    def _say(self, why: str) -> None:
        if why != self._said:
            log.info("enrolment_unknown", "clients that never came are not known: %s", why)
        self._said = why
