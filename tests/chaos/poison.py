"""What no coordinator may count, sent by a client that is enrolled and means harm."""

from typing import Any

import numpy as np

from coordinator_worker.storage import checkpoint
from tests.chaos.stage import MALLORY, Stage
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.errors import WarrenError
from warren_shared.protocol.codec import Body, encode
from warren_shared.protocol.messages import Join, UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Weights

KINDS = ("bytes", "not finite", "run", "layout", "identity", "cut short", "future")


def publish_poison(stage: Stage) -> None:
    """Publish one message, or one update, of a random kind."""
    session = Session.for_broker(stage.node.broker_url(MALLORY), MALLORY)
    try:
        session.start(5.0)
        session.publish(
            [
                Publication("update", "update", body, "update", persistent=True)
                for body in _poison(stage)
            ]
        )
    except WarrenError:
        pass  # the broker is away
    finally:
        session.close()


def _poison(stage: Stage) -> list[Body]:
    kind = stage.random.choice(KINDS)
    if kind == "bytes":
        return [(stage.random.randbytes(stage.random.randrange(1, 5000)),)]
    if kind == "identity":
        return [encode(Join(federation=stage.federation.name, client="client-0"))]
    state = checkpoint.load(stage.checkpoints)
    if state is None:
        return []
    delta = Weights.empty(state.weights.layout)
    fields: dict[str, Any] = {
        "federation": stage.federation.name,
        "run": state.run,
        "client": MALLORY,
        "base_version": state.version,
        "num_examples": 1_000_000,
        "layout": delta.layout.digest,
    }
    if kind == "not finite":
        delta[0][0, 0] = np.nan
    elif kind == "run":
        fields["run"] = "0" * 8
    elif kind == "layout":
        fields["layout"] = "0" * 16
    elif kind == "future":
        fields["base_version"] = state.version + 1000
    bodies = list(Outgoing(UpdateManifest(**fields, **transfer_fields(delta.buffer)), delta.buffer))
    return bodies[:-1] if kind == "cut short" else bodies
