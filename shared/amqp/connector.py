"""One connection at a time, for ever: hosts in turn, and again after each loss, on one thread.

The thread belongs to the connection alone, so heartbeats go out while TensorFlow trains for an
hour. A connector knows no channel: it says when there is a connection and when there is none.
"""

import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any, Final

from pika import exceptions

from warren_shared.amqp.address import diagnose, has_ended, has_token, location
from warren_shared.amqp.backoff import backoff_s
from warren_shared.amqp.hosts import Hosts
from warren_shared.amqp.zero_copy import Connection, say_when_blocked
from warren_shared.errors import WarrenError
from warren_shared.observability.log import Log

log = Log(__name__)

GOODBYE_S: Final = 5.0  # for the broker's answer to ours
END_S: Final = 5.0  # for the thread, when it has been told to end
HOPELESS_S: Final = 0.5  # for that of a broker that does not confirm any more
SHORT_S: Final = 10.0  # a connection that ends sooner is none to build on


class SessionState(Enum):
    """Where a session is. Only the connection's thread changes it; every thread may read it."""

    CONNECTING = auto()  # the broker has not let us in yet
    READY = auto()  # what was subscribed to is consumed, and messages are published
    RECONNECTING = auto()  # it was ready, and is tried again
    FAILED = auto()  # ended, and was never ready
    CLOSED = auto()  # ended


class Connector:
    """Keeps a connection to one of the hosts that ``parameters`` lead to, until ``close``.

    Calls, all on the connection's thread: ``on_attempt(epoch)`` before each attempt, ``on_open()``
    when the connection is open, ``on_link_lost(refused)`` when nothing more can be sent over it,
    ``on_lost()`` when one that was ready has ended and will be tried again, ``on_end()`` when none
    will be tried any more.
    """

    connection: Connection  # the newest; there is none before the first attempt

    def __init__(
        self,
        parameters: Sequence[Any],
        name: str,
        *,
        on_attempt: Callable[[int], None],
        on_open: Callable[[], None],
        on_link_lost: Callable[[WarrenError | None], None],
        on_lost: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.state = SessionState.CONNECTING
        self.epoch = 0  # counts the attempts
        self.failure: WarrenError | None = None  # of the last attempt
        self.closing = threading.Event()  # asked to end, or ended
        self._hosts = Hosts(parameters)
        self._parameters = parameters[0]
        self._on_attempt, self._on_open = on_attempt, on_open
        self._on_link_lost, self._on_lost, self._on_end = on_link_lost, on_lost, on_end
        self._thread = threading.Thread(target=self._run, name=f"amqp {name}", daemon=True)
        self._lock = threading.Lock()  # guards _loop, the one thing that callers' threads touch
        self._loop: Any = None
        self._answered = threading.Event()  # it is known whether the broker lets us in
        self._is_hopeless = False  # why the last attempt failed will not change
        self._was_up = False  # this connection was ready

    # --- called from any thread -----------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait until the broker has let us in; False if it has not, or will not.

        The connection may be lost again by now, and is tried for ever.
        """
        ended_unready = (SessionState.CONNECTING, SessionState.FAILED)
        return self._answered.wait(seconds) and self.state not in ended_unready

    @property
    def is_starting(self) -> bool:
        """Whether the broker has not let us in yet, nor refused us for good."""
        return not self._answered.is_set()

    @property
    def is_ready(self) -> bool:
        """Whether messages can be sent now."""
        return self.state is SessionState.READY

    @property
    def where(self) -> str:
        """Where the newest attempt connects to, for people."""
        return location(self._parameters)

    def call(self, function: Callable[[], None]) -> bool:
        """Have the connection's thread call ``function``; False if there is no connection."""
        with self._lock:
            if self._loop is not None:
                self._loop.add_callback_threadsafe(function)
            return self._loop is not None

    def reopen(self) -> None:
        """Let the connection go and connect again."""
        self.call(self.disconnect)

    def close(self, *, is_hopeless: bool = False) -> None:
        """End the connection and the thread; ``is_hopeless``: the broker hardly answers."""
        self.closing.set()
        self.call(self.disconnect)
        if self._thread.is_alive():
            self._thread.join(HOPELESS_S if is_hopeless else END_S)
        if self._thread.is_alive():
            # The broker does not answer our close; a thread that waits for a confirm would wait on.
            self.call(lambda: self.connection.ioloop.stop())  # noqa: PLW0108
            self._thread.join(END_S)

    # --- the connection's thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._connect_for_ever()
        except Exception:  # noqa: BLE001  a bug: without this thread the worker would wait for ever
            traceback.print_exc()
            os._exit(os.EX_SOFTWARE)

    def _connect_for_ever(self) -> None:
        attempt = 0
        while not self.closing.is_set():
            began = time.monotonic()
            self._parameters = self._hosts.next()
            was_up = self._connect_once()
            # What is refused as soon as it is sent would be sent a hundred times in a minute.
            lasted = was_up and time.monotonic() - began > SHORT_S
            attempt = 1 if lasted else attempt + 1
            if was_up and not self.closing.is_set():
                self._on_lost()
            if self._is_hopeless and self.is_starting:
                break
            # No long wait before the other nodes have been tried.
            self.closing.wait(backoff_s(1 + (attempt - 1) // self._hosts.count))
        was_never_ready = self.state is SessionState.CONNECTING
        self.state = SessionState.FAILED if was_never_ready else SessionState.CLOSED
        self.closing.set()
        self._answered.set()  # a thread that waits for the beginning waits in vain
        self._on_end()

    def _connect_once(self) -> bool:
        """One connection from attempt to end; True if it was ready in between."""
        self.epoch += 1
        self._was_up = False
        self._on_attempt(self.epoch)
        connection = Connection.connect(
            self._parameters,
            on_open_callback=lambda _connection: self._on_open(),
            on_open_error_callback=lambda _connection, error: self._ended(error),
            on_close_callback=lambda _connection, error: self._ended(error),
        )
        say_when_blocked(connection)
        self.connection = connection
        with self._lock:
            self._loop = connection.ioloop
        if self.closing.is_set():  # since we began this attempt: it found no loop to call
            self.call(self.disconnect)
        connection.ioloop.start()
        with self._lock:
            self._loop = None
        self.lose_link()  # a broker that did not answer our goodbye has not ended the link
        connection.let_go()
        connection.ioloop.close()
        return self._was_up

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call ``function`` in ``seconds``, unless the connection ends before."""
        self.connection.ioloop.call_later(seconds, function)

    def mark_ready(self) -> None:
        """What was subscribed to is consumed, and messages can go out."""
        self.state = SessionState.READY
        self._was_up = True
        self.failure = None
        self._hosts.connected()
        log.info("connected", "connected to %s", self.where)

    def answer_start(self) -> None:
        """Have the thread that waits for the beginning go on."""
        self._answered.set()

    def watch_token(self) -> None:
        """Have the broker know each new token for as long as the connection lasts."""
        self._look_at_token(self.connection)

    def _look_at_token(self, connection: Connection) -> None:
        credentials = self._parameters.credentials
        if not has_token(self._parameters) or not connection.is_open:
            return
        if credentials.file.renewed():
            connection.update_secret(
                credentials.file.token,
                "renewed",
                lambda _frame: log.info("token_renewed", "the broker has the new token"),
            )
        connection.ioloop.call_later(
            credentials.file.look_s(), partial(self._look_at_token, connection)
        )

    # --- what ends a connection -----------------------------------------------------------------

    def disconnect(self) -> None:
        """Say goodbye to the broker."""
        connection = self.connection
        if connection.is_open:
            connection.resume()  # or the broker's answer would not be read
            connection.leave()
            # One whose reading is held up answers nothing, and goes on sending heartbeats.
            connection.ioloop.call_later(GOODBYE_S, connection.ioloop.stop)
        elif not connection.is_closing:
            connection.ioloop.stop()

    def lose_link(self, refused: WarrenError | None = None) -> None:
        """Nothing more can be sent; with ``refused``, because of what was."""
        if self.is_ready:
            self.state = SessionState.RECONNECTING
        self._on_link_lost(refused)

    def fail(self, failure: WarrenError, *, is_hopeless: bool = False) -> None:
        """Note why this connection ends, and whether waiting cannot help."""
        self.failure, self._is_hopeless = failure, is_hopeless
        if not self.closing.is_set() and not self.is_starting:
            log.warning("connection_lost", "%s; trying again", failure)

    @property
    def token_has_ended(self) -> bool:
        """Whether the token that we logged in with has expired."""
        return has_ended(self._parameters)

    def _ended(self, error: Exception) -> None:
        if not isinstance(error, exceptions.ConnectionClosedByClient):
            by_token = has_token(self._parameters)
            failure, is_hopeless = diagnose(error, self.where, by_token=by_token)
            self.fail(failure, is_hopeless=is_hopeless)
        self.lose_link()
        self.connection.ioloop.stop()
