"""Which node of the broker a session connects to next.

The URL may name several hosts, and a name may have several addresses. Each session begins at one
drawn by lot, so that the nodes share the connections, and tries the others before it waits: the
loss of one node costs a connection, not a pause.
"""

import copy
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

FIRST_LAP_TIMEOUT_S: Final = 4  # for TCP, TLS and login, while another node may answer sooner

# The addresses of a host name and port; raises OSError.
Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> Sequence[str]:
    """Every address of ``host``, each once; raises OSError if it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Hosts:
    """Pika parameters for one attempt to connect after the other.

    ``parameters`` are those of the URL's hosts. ``count`` is how many addresses they have. Not
    thread-safe.
    """

    def __init__(self, parameters: Sequence[Any], resolve: Resolve = resolve) -> None:
        self._parameters = list(parameters)
        random.shuffle(self._parameters)
        self._resolve = resolve
        self._lap: Iterator[Any] = iter(())
        self._laps = 0  # since we were connected
        self.count = len(self._parameters)

    def next(self) -> Any:
        """Parameters for the next attempt to connect."""
        found = next(self._lap, None)
        if found is None:
            self._laps += 1
            self._lap = iter(self._every_address())
            found = next(self._lap)
        return found

    def connected(self) -> None:
        """The last attempt succeeded; after this connection is lost the next node is tried."""
        self._laps = 0

    def _every_address(self) -> list[Any]:
        found = [each for host in self._parameters for each in self._addresses(host)]
        # With a single address there is nothing to gain from an early end.
        self.count = len(found)
        if self.count > 1 and self._laps <= 1:
            for each in found:
                each.socket_timeout = each.stack_timeout = FIRST_LAP_TIMEOUT_S
        return found

    def _addresses(self, host: Any) -> list[Any]:
        if getattr(host, "proxy", None) is not None:
            return [copy.copy(host)]  # the proxy looks names up
        try:
            addresses = self._resolve(host.host, host.port)
        except OSError:
            addresses = [host.host]  # the attempt fails, and says why
        found = []
        for address in addresses:
            each = copy.copy(host)
            if len(addresses) > 1:
                each.host = address  # the certificate is checked against the name, as before
            found.append(each)
        return found
