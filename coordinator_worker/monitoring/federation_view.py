"""A federation as its events tell of it: what the terminal, the web page and a late-comer see.

The coordinator feeds one with its own events and leaves it in the queue ``event.state``; a watcher
begins with that and feeds it with what comes after. No broker, clock or disk here.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from math import nan
from typing import Any, Final

from coordinator_worker.monitoring import client_view, events
from coordinator_worker.monitoring.client_view import Client
from coordinator_worker.monitoring.events import Stamped
from coordinator_worker.monitoring.waiting import Waiting, shortened, waited_for
from coordinator_worker.state.enrolled import unseen
from coordinator_worker.state.round_record import RoundRecord, SiteRange
from coordinator_worker.state.training_state import HISTORY_ROUNDS, State

FORMAT: Final = 1
MAX_CLIENTS: Final = 10_000
MAX_METRICS: Final = 24  # clients name them, and each may name others
LONGEST_NAME: Final = 64
MAX_REJECTED: Final = 50
DETAIL: Final = 300  # characters of a rejection's detail that are kept

LEFT: Final = "left"  # of a client that has ended, with the reason
SILENT_AFTER: Final = 3  # signs of life that did not come


class FederationView:
    """What is known of a federation. Everything in it is bounded, whatever is received.

    ``quorum``: updates in the round, and how many close it; ``opened``: when the round began;
    ``time`` and ``number`` of the last event: seconds since the epoch, and a count. ``rounds`` has
    plain figures for each of the newest rounds. ``staleness`` counts accepted updates of this run
    by how late they were.
    """

    def __init__(self, federation: str = "") -> None:
        self.federation = federation
        self.time = 0.0
        self.number = 0
        self.clients: dict[str, Client] = {}
        self.enrolled: tuple[str, ...] = ()  # single clients, and fleets
        self.model_bytes = 0
        self.begin("")

    def begin(self, run: str) -> None:
        """Forget what belongs to another run; the clients stay, as strangers."""
        self.run = run
        self.version = 0
        self.quorum = (0, 1)
        self.opened = 0.0
        self.finished = self.stopped = False
        self.bytes_up = self.bytes_down = self.updates = 0
        self.raw_bytes_up = self.raw_bytes_down = 0  # what they would have been as they are
        self.privacy: dict[str, float] = {}  # of a private run: epsilon, promised, delta
        self.rounds: deque[dict[str, Any]] = deque(maxlen=HISTORY_ROUNDS)
        self.staleness: Counter[int] = Counter()
        self.rejected: deque[dict[str, Any]] = deque(maxlen=MAX_REJECTED)
        self.reasons: Counter[str] = Counter()
        self.trouble: dict[str, str] = {}
        self.metrics: dict[str, None] = {}  # their names, in the order in which they came
        self.best: tuple[int, float] | None = None
        self.alive_s = 0.0  # how often the coordinator gives a sign of life; 0: it does not
        for name, client in self.clients.items():
            self.clients[name] = Client(joined=client.joined)

    def resume(self, state: State) -> None:
        """Begin with what a checkpoint says."""
        self.begin(state.run)
        self.federation = state.federation
        self.version = state.version
        for record in state.history:
            self._add_round(record)
            self.updates += record.updates
        self.best = (state.best.version, state.best.value) if state.best else None
        for name, member in state.roster.items():
            self.clients[name] = Client.of(member, since=state.version)
        self._enrolled(events.ClientsEnrolled(state.enrolled.names), 0)

    # --- events ---------------------------------------------------------------------------------

    def apply(self, stamped: Stamped) -> None:
        """Take one event; one that is not known changes nothing."""
        event = stamped.event
        self.number = stamped.number or self.number
        self.time = max(self.time, stamped.time)
        take = _TAKES.get(type(event))
        if take is None:
            return
        run = getattr(event, "run", "")
        if run and run != self.run:
            self.begin(run)
        self.federation = self.federation or stamped.federation
        self.stopped = False
        take(self, event, stamped.time)

    def _joined(self, event: events.ClientJoined, moment: float) -> None:
        client = self._client(event.client)
        if client is not None:
            client.joined = moment
            client.away = False
            if client.trouble.startswith(LEFT):
                client.trouble = ""

    def _enrolled(self, event: events.ClientsEnrolled, _moment: float) -> None:
        names = event.names[:MAX_CLIENTS]
        self.enrolled = tuple(name for name in names if len(name) <= LONGEST_NAME)

    def _failed(self, event: events.ClientFailed, _moment: float) -> None:
        client = self._client(event.client)
        if client is not None:
            words = LEFT if event.ends else "failed"
            client.trouble = f"{words}: {shortened(event.reason)}"

    def _alive(self, event: events.CoordinatorAlive, _moment: float) -> None:
        self.alive_s = event.every_s
        if event.away is not None:
            for name, client in self.clients.items():
                client.away = name in event.away

    def _waiting(self, event: events.RoundWaiting, _moment: float) -> None:
        self.trouble["waiting"] = shortened(event.words)

    def _all_rejected(self, event: events.RoundRejected, _moment: float) -> None:
        self.trouble["rejected"] = shortened(event.words)

    def _accepted(self, event: events.UpdateAccepted, moment: float) -> None:
        self.quorum = _pair(event.quorum)
        client = self._client(event.client)
        if client is None:
            return
        made = (self.version if event.version is None else event.version) + 1
        client.base = event.base_version
        late = event.staleness
        if late is None:
            late = max(0, made - 1 - client.base)
        if client.record_contribution(made, late):
            self.staleness[late] += 1
        client.seen = moment
        client.examples = event.examples
        client.bytes = event.size_bytes
        client.norm = event.norm
        client.metrics = self._named(event.metrics)
        client.trouble, client.away = "", False

    def _rejected(self, event: events.UpdateRejected, moment: float) -> None:
        name, reason, detail = event.client, event.reason, event.detail
        told = {"time": moment, "client": name[:LONGEST_NAME]}
        self.rejected.append(told | {"reason": reason[:LONGEST_NAME], "detail": detail[:DETAIL]})
        self.reasons[reason[:LONGEST_NAME]] += 1
        client = self._client(name) if event.enrolled else self.clients.get(name)
        if client is not None:
            client.record_rejection(self.version + 1)
            if reason != "stale":
                client.trouble = f"rejected: {shortened(f'{reason}: {detail}')}"

    def _flooding(self, event: events.ClientFlooding, _moment: float) -> None:
        self.trouble["flood"] = f"so much of {event.client} is rejected that it is only counted"

    def _overdue(self, event: events.RoundOverdue, _moment: float) -> None:
        have, need = _pair(event.quorum)
        self.trouble["overdue"] = f"the deadline has passed with {have} of {need} updates"

    def _diverged(self, event: events.RoundDiverged, _moment: float) -> None:
        self.trouble["diverged"] = f"the last round was refused: {event.detail}"

    def _stalled(self, event: events.CoordinatorStalled, _moment: float) -> None:
        self.trouble["disk"] = f"the coordinator waits: {event.detail}"

    def _recovered(self, _event: events.CoordinatorRecovered, _moment: float) -> None:
        self.trouble.pop("disk", None)

    def _closed(self, event: events.RoundClosed, _moment: float) -> None:
        record = event.record
        self.version = record.version
        self.updates += record.updates
        self._add_round(record)
        for name in record.clients or {}:
            if (client := self._client(name)) is not None:
                client.record_contribution(self.version, 0)  # unless we know better
        for what in ("overdue", "waiting", "rejected"):
            self.trouble.pop(what, None)
        if record.diverged is None:
            self.trouble.pop("diverged", None)
        if not record.rejected:
            self.trouble.pop("flood", None)

    def _add_round(self, record: RoundRecord) -> None:
        kept = {name: getattr(record, name) for name in _ROUND_FIELDS if record.knows(name)}
        self._make_way(record.metrics)
        kept["metrics"] = self._named(record.metrics)
        self.bytes_up += record.bytes_up
        self.raw_bytes_up += record.raw_bytes_up or record.bytes_up
        if record.bytes_down is not None:
            kept["sent"] = record.bytes_down  # to each client
        if record.privacy is not None:
            self.privacy = asdict(record.privacy)
        if record.sites is not None:
            known = {name: found for name, found in record.sites.items() if name in self.metrics}
            kept["sites"] = {name: _range(found) for name, found in known.items()}
        self.rounds.append(kept)

    def _published(self, event: events.ModelPublished, moment: float) -> None:
        self.version = event.version
        self.quorum = _pair(event.quorum)
        self.opened = moment
        self.model_bytes = event.size_bytes
        last = self.rounds[-1] if self.rounds else {}
        made = last if last.get("version") == self.version else {}
        down = made.get("sent", self.model_bytes) * len(self.clients)
        self.bytes_down += down
        self.raw_bytes_down += self.model_bytes * len(self.clients)
        made["bytes_down"] = down
        self.finished = isinstance(event, events.FederationFinished)

    def _found_best(self, event: events.ModelBest, _moment: float) -> None:
        self.best = (event.version, event.value)

    def _evaluated(self, event: events.ModelEvaluated, _moment: float) -> None:
        figures = {f"evaluate: {name}": value for name, value in event.metrics.items()}
        for record in reversed(self.rounds):
            if record.get("version") == event.version:
                record["metrics"] |= self._named(figures)
                break

    def _has_stopped(self, _event: events.CoordinatorStopped, _moment: float) -> None:
        self.stopped = True

    def _client(self, name: str) -> Client | None:
        if name not in self.clients and len(self.clients) < MAX_CLIENTS:
            self.clients[name] = Client(since=self.version)
        return self.clients.get(name)

    def _make_way(self, metrics: Mapping[str, float]) -> None:
        """Forget names that no round has, for those of a round: one client may make up any number.

        A round's record has those that most clients report first.
        """
        wanted = [name for name in metrics if name not in self.metrics][:MAX_METRICS]
        lacking = len(self.metrics) + len(wanted) - MAX_METRICS
        last = self.rounds[-1]["metrics"] if self.rounds else {}
        others = [name for name in self.metrics if name not in metrics and name not in last]
        for name in others[: max(0, lacking)]:
            del self.metrics[name]

    def _named(self, metrics: Mapping[str, float]) -> dict[str, float]:
        for name in metrics:
            if len(self.metrics) < MAX_METRICS and len(name) <= LONGEST_NAME:
                self.metrics.setdefault(name)
        return {name: _short(v) for name, v in metrics.items() if name in self.metrics}

    def waiting(self) -> list[Waiting]:
        """Whom the open round lacks, and why."""
        return waited_for(self.clients, self.version)

    def all_rejected(self) -> bool:
        """Whether something of each client was refused in the open round, and none counts."""
        made = self.version + 1
        there = [c for c in self.clients.values() if not c.trouble.startswith(LEFT)]
        return bool(there) and all(c.rounds.get(made) == client_view.REFUSED for c in there)

    # --- as a whole -----------------------------------------------------------------------------

    def rows(self) -> list[client_view.Row]:
        """A line for each client, those that stand out first, and each that never came."""
        return client_view.rows(self.clients, self.version, self.unseen())

    def unseen(self) -> list[str]:
        """Clients that are enrolled, and fleets, of which nothing has ever come."""
        return unseen(self.enrolled, self.clients)[: MAX_CLIENTS - len(self.clients)]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it: for the page, and to begin with."""
        whole = {name: getattr(self, name) for name in _PLAIN}
        return (
            whole
            | self._since()
            | {
                "format": FORMAT,
                "alive_s": self.alive_s,
                "rounds": list(self.rounds),
                "rejected": list(self.rejected),
                "staleness": {str(late): count for late, count in sorted(self.staleness.items())},
                "metrics": list(self.metrics),
                "clients": [row.as_dict(self.version) for row in self.rows()],
            }
        )

    def _since(self) -> dict[str, Any]:
        """What older coordinators do not say, where it says something."""
        told: dict[str, Any] = {"privacy": self.privacy} if self.privacy else {}
        if self.enrolled:
            told["enrolled"] = list(self.enrolled)
        for kind in ("up", "down"):
            if (raw := getattr(self, f"raw_bytes_{kind}")) != getattr(self, f"bytes_{kind}"):
                told[f"raw_bytes_{kind}"] = raw
        return told

    @classmethod
    def of(cls, whole: Mapping[str, Any]) -> "FederationView":
        """From what ``as_dict`` gave; raises ValueError if it is of another format."""
        if whole.get("format") != FORMAT:
            raise ValueError(f"a picture of format {whole.get('format')}, not {FORMAT}")
        made = cls()
        for name in _PLAIN:
            setattr(made, name, whole[name])
        made.raw_bytes_up = whole.get("raw_bytes_up", made.bytes_up)
        made.raw_bytes_down = whole.get("raw_bytes_down", made.bytes_down)
        made.privacy = dict(whole.get("privacy", {}))
        made.enrolled = tuple(whole.get("enrolled", ()))
        made.alive_s = float(whole.get("alive_s", 0.0))
        made.quorum = _pair(whole["quorum"])
        made.reasons = Counter(whole["reasons"])
        for record in whole["rounds"]:
            figures = {name: _short(value) for name, value in record["metrics"].items()}
            made.rounds.append(record | {"metrics": figures})
        made.rejected.extend(whole["rejected"])
        made.staleness.update({int(late): count for late, count in whole["staleness"].items()})
        made.metrics = dict.fromkeys(whole["metrics"])
        made.clients = {
            line["client"]: Client.read(line, made.version)
            for line in whole["clients"]
            if line["status"] != "unseen"
        }
        return made

    def succeeds(self, older: "FederationView") -> None:
        """Take over who was in which round: a restarted coordinator does not know it."""
        if older.run != self.run:
            return
        for name, client in self.clients.items():
            if name in older.clients:
                client.remember(older.clients[name])


def _range(found: SiteRange) -> list[Any]:
    """Lowest, whose, highest, whose: short, since a snapshot has a thousand rounds of them."""
    low, high = _short(found.low), _short(found.high)
    return [low, found.low_client, high, found.high_client]


def _pair(quorum: Iterable[int]) -> tuple[int, int]:
    have, need = quorum
    return int(have), max(1, int(need))


def _short(value: float | None) -> float:
    """Six digits are enough; JSON's null was NaN."""
    return nan if value is None else float(f"{value:.6g}")


_PLAIN: Final = (
    "federation", "time", "number", "run", "version", "quorum", "opened", "finished", "stopped",
    "updates", "model_bytes", "bytes_up", "bytes_down", "reasons", "trouble", "best",
)  # fmt: skip
_ROUND_FIELDS: Final = ("version", "time", "updates", "seconds", "norm", "bytes_up", "rejected")
# Each takes an event of its class, and when that happened.
_TAKES: Final[Mapping[type, Callable[[FederationView, Any, float], None]]] = {
    events.ClientJoined: FederationView._joined,
    events.ClientsEnrolled: FederationView._enrolled,
    events.ClientFailed: FederationView._failed,
    events.ClientFlooding: FederationView._flooding,
    events.CoordinatorAlive: FederationView._alive,
    events.RoundWaiting: FederationView._waiting,
    events.RoundRejected: FederationView._all_rejected,
    events.UpdateAccepted: FederationView._accepted,
    events.UpdateRejected: FederationView._rejected,
    events.RoundOverdue: FederationView._overdue,
    events.RoundClosed: FederationView._closed,
    events.RoundDiverged: FederationView._diverged,
    events.ModelPublished: FederationView._published,
    events.FederationFinished: FederationView._published,
    events.ModelBest: FederationView._found_best,
    events.ModelEvaluated: FederationView._evaluated,
    events.CoordinatorStalled: FederationView._stalled,
    events.CoordinatorRecovered: FederationView._recovered,
    events.CoordinatorStopped: FederationView._has_stopped,
}


def silence(view: FederationView, seconds: float) -> str:
    """What to say when a coordinator that gives signs of life has not for ``seconds``."""
    if view.finished or view.stopped or not view.alive_s:
        return ""
    if seconds < SILENT_AFTER * view.alive_s:
        return ""
    return f"no sign of the coordinator for {seconds:.0f} s"
