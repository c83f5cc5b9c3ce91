"""What the coordinator is told of who may take part, so that it can say who never came.

AMQP does not list queues or users, and the coordinator has no other way to the broker. So the names
are one message in the queue ``coordinator.enrolled``, replaced whenever they change. Nothing but
what people see depends on it: a broker that was set up from definitions alone has none.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from broker_config.broker.apply import let_ourselves_in
from warren_shared.naming import ENROLLED_FORMAT, ENROLLED_MOST, ENROLLED_QUEUE

if TYPE_CHECKING:
    from broker_config.broker.management_api import Management
    from broker_config.declaration.federation import Federation


def message(federation: Federation) -> dict[str, Any]:
    """Clients and fleets of ``federation``, the first ENROLLED_MOST of each."""
    fleets = {fleet.name: fleet.size for fleet in federation.fleets[:ENROLLED_MOST]}
    return {
        "format": ENROLLED_FORMAT,
        "clients": list(federation.clients[:ENROLLED_MOST]),
        "fleets": fleets,
    }


def tell(federation: Federation, management: Management) -> None:
    """Have the coordinator find who is enrolled in ``federation``, if it would find others.

    Raises:
        BrokerConfigError: the broker refuses.
    """
    told = message(federation)
    if management.get("queues", federation.name, ENROLLED_QUEUE) is None:
        return  # of an older version, until `apply`
    let_ourselves_in(federation.name, management)
    if _found(federation.name, management) == told:
        return
    body = {
        "properties": {"delivery_mode": 2, "content_type": "application/json"},
        "routing_key": ENROLLED_QUEUE,
        "payload": json.dumps(told),
        "payload_encoding": "string",
    }
    management.post("exchanges", federation.name, "amq.default", "publish", body=body)


def _found(vhost: str, management: Management) -> Any:
    found = management.first_message(vhost, ENROLLED_QUEUE)
    try:
        return json.loads(found["payload"]) if found else None
    except ValueError:
        return None
