"""The four ports of a private node: all on the loopback address, AMQP on others' too if asked."""

from __future__ import annotations

import secrets
import socket
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from broker_config.node.processes import wait_for
from warren_shared.errors import BrokerConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOPBACK: Final = "127.0.0.1"
# Below the range that Linux takes the near ends of outgoing connections from (32768 and up): a
# port of that range may be taken by any passing connection while the node is down.
_FREE: Final = range(20_000, 32_000)
_LET_GO_S: Final = 3.0
NO_PORT: Final = -1  # requested: not even the remembered one


@dataclass(frozen=True)
class Ports:
    """Ports of a node; 0 means "a free one", for ``prometheus`` that it has none."""

    amqp: int = 0
    management: int = 0
    distribution: int = 0
    epmd: int = 0
    prometheus: int = 0


def settle(
    requested: Ports, remembered: Ports, *, amqp_on: str = LOOPBACK, others: Iterable[Ports] = ()
) -> Ports:
    """Fill in what is not ``requested``: as ``remembered``, else free ones.

    ``amqp_on`` is the address that AMQP is to be served on; "" is all of this machine's. Of
    ``others``, nodes that need not run now, none is picked.

    Raises:
        BrokerConfigError: a port that somebody counts on (requested, or the AMQP and management
            port that bundles name) is in use, or one is requested twice.
    """
    public = replace(remembered, distribution=0, epmd=0)
    wanted = {use: port or getattr(public, use) for use, port in asdict(requested).items()}
    wanted["prometheus"] = max(0, wanted["prometheus"])
    fixed = [port for port in wanted.values() if port]
    for use, port in wanted.items():
        if port and fixed.count(port) > 1:
            raise BrokerConfigError(f"port {port} is requested for two purposes: pick another one")
        # A node that was just killed is gone from the process list before its ports are free.
        patience_s = _LET_GO_S if port == getattr(remembered, use) else 0.0
        address = amqp_on if use == "amqp" else LOOPBACK
        if port and not wait_for(partial(is_free, port, address), patience_s):
            raise BrokerConfigError(
                f"{use} port {port} is in use by another program: stop that one, or give "
                "another port (broker-config up --port N --management-port N --prometheus-port N)"
            )
    taken = {port for ports in others for port in asdict(ports).values()}.union(fixed)
    for use, port in wanted.items():
        if not port and use != "prometheus":
            before = getattr(remembered, use)
            good = before and before not in taken and is_free(before)
            wanted[use] = before if good else _pick(taken)
            taken.add(wanted[use])
    return Ports(**wanted)


def is_free(port: int, address: str = LOOPBACK) -> bool:
    """Whether a server could listen on ``port`` of ``address``; "" is all of this machine's."""
    with socket.socket() as probe:
        # As Erlang does: connections of yesterday's node that still linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OverflowError as error:
            raise BrokerConfigError(f"{port} is no port: pick one of 1 to 65535") from error
        except OSError:
            return False
        return True


def _pick(taken: set[int]) -> int:
    # At random, so that two nodes started at the same moment do not pick the same one.
    for _ in range(200):
        port = secrets.choice(_FREE)
        if port not in taken and is_free(port):
            return port
    raise BrokerConfigError(f"no free port between {_FREE.start} and {_FREE.stop} on {LOOPBACK}")
