"""Every error that Warren raises on purpose, and what becomes of the work at hand.

WarrenError                  its message is one line that a user can act on
├── ConfigError              crash: bad input; say so, exit 2, lose nothing
├── TaskFailed               crash: the user's code failed, also when tried again; exit 1
├── BrokerConfigError        crash: the operator of the broker has to do something first; exit 1
├── BrokerRefused            crash: the broker knows us and says no; exit 1
│   └── NotThere             crash at start, retry ever after: a queue or an exchange is missing
├── BrokerUnavailable        crash at start, retry ever after: no broker answers; exit 1
│   └── Taken                the same: others consume whatever we could
├── Rejected                 reject: a message that must not count; dead-letter it and say why
└── Stopped                  we were asked to stop while waiting

Anything else that escapes is a bug: it ends the process with its traceback, and the supervisor
starts it again; what was not acknowledged is still in the broker.
"""

from typing import ClassVar, Final

from warren_shared.printable import printable

MAX_DETAIL: Final = 600  # characters; what cannot be printed is written out as up to ten


class WarrenError(Exception):
    """An expected failure; ``str(error)`` is the line shown to the user."""

    exit_code: ClassVar[int] = 1


class ConfigError(WarrenError):
    """The input is wrong; nothing was done with it."""

    exit_code = 2


class TaskFailed(WarrenError):
    """The user's code failed again and again; the log has its traceback."""


class BrokerConfigError(WarrenError):
    """The broker or its home folder is not as it must be: the operator can put it right."""


class BrokerRefused(WarrenError):
    """The broker refused this user, vhost, queue or exchange."""


class NotThere(BrokerRefused):
    """What is published to, or consumed from, does not exist, or its node is away."""


class BrokerUnavailable(WarrenError):
    """No broker answered within the time we were willing to wait."""


class Taken(BrokerUnavailable):
    """Other processes consume the queue, or all of the row, that we were to consume alone."""


class Stopped(WarrenError):
    """The session was closed while a caller still waited for it."""


class Rejected(WarrenError):
    """A message that must not count.

    ``reason`` is a short word for headers, counters and notices (``stale``, ``malformed`` …),
    ``detail`` the sentence behind it, which may quote the sender: what of it cannot be printed is
    written out.
    """

    def __init__(self, reason: str, detail: str) -> None:
        detail = printable(detail)[:MAX_DETAIL]
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
