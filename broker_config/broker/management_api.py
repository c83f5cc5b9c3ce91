"""RabbitMQ's management HTTP API, as much of it as bringing a broker into shape takes."""

from __future__ import annotations

import base64
import os
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import httpx

from warren_shared.amqp.broker_url import BrokerUrl, host_and_port
from warren_shared.errors import BrokerConfigError, ConfigError

if TYPE_CHECKING:
    from types import TracebackType

TIMEOUT_S: Final = 30.0
CONNECT_S: Final = 5.0  # while another node may answer sooner


class Management:
    """A connection to the management API of one broker; use it as a context manager.

    ``url`` is ``http[s]://user:password@host:port``, or names several nodes of a cluster
    (``host1:port,host2:port``): the first that answers is asked. A password that is missing there
    is taken from $WARREN_MANAGEMENT_PASSWORD. Of an https broker ``ca`` vouches, as base64 of the
    authority's DER; without it, whom the system trusts. ``timeout_s`` is how long a node may take
    for an answer. Every method raises `BrokerConfigError`
    when the broker cannot be reached or refuses.
    """

    def __init__(self, url: str, ca: str = "", timeout_s: float = TIMEOUT_S) -> None:
        try:
            parts = BrokerUrl.parse(url, ("http", "https"))
        except ConfigError as error:
            raise BrokerConfigError(str(error)) from None
        path = "" if parts.vhost == "/" else f"/{parts.vhost.strip('/')}"
        self.hosts = tuple(host for host, _port in parts.hosts)
        self.user = parts.user or "guest"
        password = parts.password or os.environ.get("WARREN_MANAGEMENT_PASSWORD", "")
        default = 443 if parts.scheme == "https" else 15672
        places = [host_and_port(host, port or default) for host, port in parts.hosts]
        self.address = f"{parts.scheme}://{','.join(places)}"
        self._urls = [f"{parts.scheme}://{place}{path}/api/" for place in places]
        self._http = httpx.Client(
            auth=httpx.BasicAuth(self.user, password),
            timeout=httpx.Timeout(timeout_s, connect=timeout_s if len(places) == 1 else CONNECT_S),
            # A certificate store takes longer to read than a private node takes to answer.
            verify=_trust(ca) if parts.scheme == "https" else False,
            # A proxy of the environment cannot reach this machine's loopback.
            trust_env=not {"127.0.0.1", "localhost", "::1"} & {*self.hosts},
        )

    def __enter__(self) -> Management:
        return self

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def get(self, *path: str) -> Any:
        """The JSON at ``path``, whose parts need no quoting; None if there is no such thing."""
        answer = self._ask("GET", path, None)
        return None if answer.status_code == httpx.codes.NOT_FOUND else answer.json()

    def put(self, *path: str, body: dict[str, Any]) -> None:
        """Create or replace the thing at ``path``."""
        self._found(self._ask("PUT", path, body), path)

    def post(self, *path: str, body: dict[str, Any]) -> None:
        """Add ``body`` to the collection at ``path``."""
        self._found(self._ask("POST", path, body), path)

    def delete(self, *path: str) -> None:
        """Delete the thing at ``path``."""
        self._found(self._ask("DELETE", path, None), path)

    def version(self) -> str:
        """RabbitMQ's version."""
        overview = self.get("overview") or {}
        return str(overview.get("rabbitmq_version", "unknown"))

    def _ask(
        self, method: str, path: tuple[str, ...], body: dict[str, Any] | None
    ) -> httpx.Response:
        url = "/".join(quote(part, safe="") for part in path)
        answer = self._first_answer(method, url, body)
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise BrokerConfigError(
                f"the broker at {self.address} refuses user {self.user!r} ({_reason(answer)}): "
                "give an administrator's login in WARREN_MANAGEMENT_URL"
            )
        if answer.is_error and answer.status_code != httpx.codes.NOT_FOUND:
            raise BrokerConfigError(
                f"the broker at {self.address} answered {method} {'/'.join(path)} with "
                f"{answer.status_code}: {_reason(answer)}"
            )
        return answer

    def _first_answer(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        # Each request says what shall be, so it may be repeated at another node.
        for base in tuple(self._urls):
            try:
                return self._http.request(method, base + path, json=body)
            except httpx.HTTPError as error:
                self._urls.append(
                    self._urls.pop(0)
                )  # the node that answers is asked first from now on
                failure = error
        raise BrokerConfigError(
            f"no management API at {self.address} ({failure}): is the broker running, "
            "and its rabbitmq_management plugin enabled?"
        ) from failure

    def _found(self, answer: httpx.Response, path: tuple[str, ...]) -> None:
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise BrokerConfigError(f"the broker at {self.address} has no {'/'.join(path)}")


def _trust(ca: str) -> ssl.SSLContext:
    """Whom to believe: the authority ``ca`` (base64 of its DER), else those of the system."""
    context = ssl.create_default_context(cadata=base64.b64decode(ca) if ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _reason(answer: httpx.Response) -> str:
    try:
        told = answer.json()
        return str(told.get("reason", told))
    except (ValueError, AttributeError):
        return answer.text.strip()[:200] or answer.reason_phrase
