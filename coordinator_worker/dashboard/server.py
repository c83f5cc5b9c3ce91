"""The dashboard's HTTP server: the page, the events it is fed by, and nothing to change."""

import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from coordinator_worker.dashboard.page import page
from coordinator_worker.dashboard.sse import Frames

MAX_BROWSERS: Final = 64
SLOW_S: Final = 15.0  # a browser that takes nothing for so long is let go
LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class DashboardServer(ThreadingHTTPServer):
    """Serves ``frames`` at ``address``, a host and a port (0: any that is free)."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_BROWSERS

    def __init__(self, address: tuple[str, int], frames: Frames) -> None:
        self.frames = frames
        self.page, self.policy = page()
        self.browsers = threading.Semaphore(MAX_BROWSERS)
        self.local_only = _is_loopback(address[0])
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Visit)

    def handle_error(self, *_: Any) -> None:
        """A browser that has gone is no news."""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Visit(BaseHTTPRequestHandler):
    server: DashboardServer
    server_version, sys_version = "Warren", ""
    timeout = SLOW_S

    def do_GET(self) -> None:
        """Answer."""
        if not self._is_for_us():
            # Or a page from elsewhere, whose name was made to lead here, could read along.
            self.send_error(HTTPStatus.FORBIDDEN, "ask for it as localhost")
            return
        match urlsplit(self.path).path:
            case "/":
                self._answer(self.server.page, "text/html; charset=utf-8")
            case "/state.json":
                self._answer(self.server.frames.newest(), "application/json")
            case "/events":
                self._stream()
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def _is_for_us(self) -> bool:
        if not self.server.local_only:
            return True
        try:
            return urlsplit(f"//{self.headers.get('Host', '')}").hostname in LOCAL_NAMES
        except ValueError:
            return False

    def _begin(self, content_type: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Security-Policy", self.server.policy)
        for name, value in HEADERS.items():
            self.send_header(name, value)

    def _answer(self, body: bytes, content_type: str) -> None:
        self._begin(content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        if not self.server.browsers.acquire(blocking=False):
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "too many are looking on")
            return
        try:
            self._begin("text/event-stream")
            self.end_headers()
            for frame in self.server.frames.each():
                self.wfile.write(frame)
        except OSError:
            pass  # it has gone, or has taken nothing for SLOW_S
        finally:
            self.server.browsers.release()

    def log_message(self, *_: Any) -> None:
        """Say nothing: it is not our log."""
