"""RabbitMQ's management HTTP API, as much of it as bringing a broker into shape takes."""

from __future__ import annotations

import base64
import os
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote
from urllib.request import getproxies, proxy_bypass

import urllib3

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
        self._http = _pool(
            _proxy(parts.scheme, self.hosts),
            headers=urllib3.make_headers(basic_auth=f"{self.user}:{password}"),
            timeout=urllib3.Timeout(
                connect=timeout_s if len(places) == 1 else CONNECT_S, read=timeout_s
            ),
            retries=False,
            # A certificate store takes longer to read than a private node takes to answer.
            ssl_context=_trust(ca) if parts.scheme == "https" else None,
        )

    def __enter__(self) -> Management:
        return self

    def close(self) -> None:
        """Let go of the connection."""
        self._http.clear()

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
        return None if answer.status == HTTPStatus.NOT_FOUND else answer.json()

    def put(self, *path: str, body: dict[str, Any]) -> None:
        """Create or replace the thing at ``path``."""
        self._found(self._ask("PUT", path, body), path)

    def post(self, *path: str, body: dict[str, Any]) -> None:
        """Add ``body`` to the collection at ``path``."""
        self._found(self._ask("POST", path, body), path)

    def first_message(self, vhost: str, queue: str) -> dict[str, Any] | None:
        """The first message in ``queue``, which stays there; None if there is none."""
        body = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
        answer = self._ask("POST", ("queues", vhost, queue, "get"), body)
        found = [] if answer.status == HTTPStatus.NOT_FOUND else answer.json()
        return dict(found[0]) if found else None

    def delete(self, *path: str) -> None:
        """Delete the thing at ``path``."""
        self._found(self._ask("DELETE", path, None), path)

    def version(self) -> str:
        """RabbitMQ's version."""
        overview = self.get("overview") or {}
        return str(overview.get("rabbitmq_version", "unknown"))

    def _ask(
        self, method: str, path: tuple[str, ...], body: dict[str, Any] | None
    ) -> urllib3.BaseHTTPResponse:
        url = "/".join(quote(part, safe="") for part in path)
        answer = self._first_answer(method, url, body)
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise BrokerConfigError(
                f"the broker at {self.address} refuses user {self.user!r} ({_reason(answer)}): "
                "give an administrator's login in WARREN_MANAGEMENT_URL"
            )
        if answer.status >= HTTPStatus.BAD_REQUEST and answer.status != HTTPStatus.NOT_FOUND:
            raise BrokerConfigError(
                f"the broker at {self.address} answered {method} {'/'.join(path)} with "
                f"{answer.status}: {_reason(answer)}"
            )
        return answer

    def _first_answer(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> urllib3.BaseHTTPResponse:
        # Each request says what shall be, so it may be repeated at another node.
        for base in tuple(self._urls):
            try:
                return self._request(method, base + path, body)
            except urllib3.exceptions.HTTPError as error:
                self._urls.append(self._urls.pop(0))  # the one that answers is asked first later
                failure = error
        raise BrokerConfigError(
            f"no management API at {self.address} ({_cause(failure)}): is the broker running, "
            "and its rabbitmq_management plugin enabled?"
        ) from failure

    def _request(
        self, method: str, url: str, body: dict[str, Any] | None
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self._http.request(method, url, json=body)
        except urllib3.exceptions.ProtocolError:
            # RabbitMQ has let go of a connection that was idle, or that it was too busy for.
            return self._http.request(method, url, json=body)

    def _found(self, answer: urllib3.BaseHTTPResponse, path: tuple[str, ...]) -> None:
        if answer.status == HTTPStatus.NOT_FOUND:
            raise BrokerConfigError(f"the broker at {self.address} has no {'/'.join(path)}")


def _trust(ca: str) -> ssl.SSLContext:
    """Whom to believe: the authority ``ca`` (base64 of its DER), else those of the system."""
    context = ssl.create_default_context(cadata=base64.b64decode(ca) if ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _proxy(scheme: str, hosts: tuple[str, ...]) -> str | None:
    """The proxy that the environment names for ``hosts``; none reaches this machine's loopback."""
    if {"127.0.0.1", "localhost", "::1"} & {*hosts} or any(map(proxy_bypass, hosts)):
        return None
    found = getproxies()
    return found.get(scheme) or found.get("all")


def _pool(proxy: str | None, **options: Any) -> urllib3.PoolManager:
    if proxy is None:
        return urllib3.PoolManager(**options)
    try:
        login = urllib3.util.parse_url(proxy).auth
        headers = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
        return urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
    except urllib3.exceptions.HTTPError as error:
        raise BrokerConfigError(
            f"the environment names a proxy that is none ({error}): correct http_proxy and"
            " https_proxy, or name the broker in no_proxy"
        ) from None


def _cause(error: urllib3.exceptions.HTTPError) -> str:
    """What went wrong, without the objects that it went through."""
    cause = error.__cause__ or error.__context__
    return str(cause) if isinstance(cause, OSError) else str(error).rpartition("): ")[2]


def _reason(answer: urllib3.BaseHTTPResponse) -> str:
    try:
        told = answer.json()
        return str(told.get("reason", told))
    except (ValueError, AttributeError):
        return answer.data.decode(errors="replace").strip()[:200] or str(answer.reason)
