"""Ports for servers that a test starts."""

import secrets

from broker_config.node.ports import is_free


def free_port() -> int:
    """One that nobody listens on, and that no outgoing connection takes."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if is_free(port):
            return port
