"""What must not count, and why: the letters in the queue ``update.rejected``.

The coordinator copies there what it rejects, with its reasons in the headers. A broker that an
earlier version declared may have moved there what it gave up itself, with ``x-death``. Whatever
else stands in such a letter was written by a client, and is shown to an operator's terminal: it
must not be able to act there.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from coordinator_worker.text.formatting import UNKNOWN, plain, size
from coordinator_worker.text.table import console
from warren_shared import strict_json
from warren_shared.amqp import queue_browser
from warren_shared.naming import REJECTED_QUEUE
from warren_shared.observability.progress import through
from warren_shared.protocol.codec import kind_of
from warren_shared.tls import Broker

SHOWN: Final = 50  # in a table, unless asked for more
MAX_REASONS: Final = 8


@dataclass(frozen=True)
class Rejection:
    """One rejected message; ``time`` in Unix seconds, ``kind`` as the message calls itself.

    Of an update of many messages there is the one at which it was rejected.
    """

    time: float | None
    client: str
    reason: str
    detail: str
    kind: str
    size_bytes: int


def read(letter: queue_browser.QueuedMessage) -> Rejection:
    """What a letter says. Needs no word of it to be true or well-formed."""
    kind, size_bytes = kind_of(letter.body) or "", len(letter.body)
    if letter.unreadable:  # the coordinator writes none like that
        detail = "its AMQP headers cannot be decoded"
        return Rejection(None, letter.user or "", "unreadable", detail, kind, size_bytes)
    deaths = letter.headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping):
        # Only a broker adds this, so the other headers and the timestamp are the sender's own.
        last = deaths[0]
        moment = _seconds(last.get("time"))
        detail = f"given up by the broker in queue {last.get('queue')}"
        return Rejection(
            moment, letter.user or "", str(last.get("reason", "")), detail, kind, size_bytes
        )
    client, reason, detail = (
        str(letter.headers.get(name, "")) for name in ("client", "reason", "detail")
    )
    return Rejection(letter.timestamp, client, reason, detail, kind, size_bytes)


def _seconds(moment: Any) -> float | None:
    return moment.timestamp() if hasattr(moment, "timestamp") else None


@dataclass(frozen=True)
class Summary:
    """The newest rejections, newest first, and how many there are for each reason."""

    newest: list[Rejection]
    by_reason: Counter[str]

    @classmethod
    def of(cls, oldest_first: Iterable[Rejection], limit: int | None) -> "Summary":
        """Keep ``limit`` of them (None: all), count all."""
        newest: deque[Rejection] = deque(maxlen=limit)
        by_reason: Counter[str] = Counter()
        for rejection in oldest_first:
            newest.append(rejection)
            by_reason[rejection.reason] += 1
        return cls(list(reversed(newest)), by_reason)

    def json_lines(self) -> str:
        """The newest rejections, one JSON object a line."""
        return strict_json.lines(asdict(rejection) for rejection in self.newest)

    def table(self) -> Table:
        """The newest rejections for people."""
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("time", no_wrap=True)
        table.add_column("client", max_width=20, overflow="fold")
        table.add_column("kind", no_wrap=True, max_width=8)
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("why", ratio=1, overflow="fold")
        for each in self.newest:
            why = Text.assemble((plain(each.reason), "bold"), ": ", plain(each.detail))
            client, kind = Text(plain(each.client)), Text(plain(each.kind))
            table.add_row(_moment(each.time), client, kind, size(each.size_bytes), why)
        return table

    def total(self) -> str:
        """``7 rejected: 4 stale, 3 malformed``, and how many of them are not shown."""
        counted = self.by_reason.most_common(MAX_REASONS)
        words = [f"{count} {plain(reason)}" for reason, count in counted]
        if others := self.by_reason.total() - sum(count for _, count in counted):
            words.append(f"{others} for other reasons")
        hidden = self.by_reason.total() - len(self.newest)
        more = f" ({hidden} older ones not shown: --limit)" if hidden else ""
        return f"{self.by_reason.total()} rejected: {', '.join(words)}{more}"


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    try:
        return time.strftime("%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return UNKNOWN  # a sender's timestamp may be anything


def show(broker: str | Broker, federation: str, *, limit: int | None, as_json: bool) -> None:
    """List what is rejected on standard output; the queue is as before."""
    letters = queue_browser.peek(broker, f"rejected · {federation}", REJECTED_QUEUE)
    kept = limit if limit is not None or as_json else SHOWN
    summary = Summary.of(map(read, through(letters, "reading what was rejected")), kept)
    if as_json:
        sys.stdout.write(summary.json_lines())
        return
    out = console()
    if summary.by_reason:
        out.print(summary.table())
        out.print()
        out.print(Text(summary.total(), style="bold"))
    else:
        out.print(f"nothing was rejected: {REJECTED_QUEUE} of {federation} is empty",
                      markup=False)  # fmt: skip


def delete_all(broker: str | Broker, federation: str, *, as_json: bool) -> None:
    """Delete every letter; what was rejected stays rejected, only the record of it goes."""
    deleted = queue_browser.purge(broker, f"rejected · {federation}", REJECTED_QUEUE)
    words = (
        strict_json.dumps({"deleted": deleted})
        if as_json
        else f"deleted {deleted} rejected messages"
    )
    sys.stdout.write(f"{words}\n")
