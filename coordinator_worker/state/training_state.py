"""All of the coordinator that survives a crash, as one record. Nothing outside it matters."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from coordinator_worker.state.enrolled import NOBODY, Enrolled
from coordinator_worker.state.privacy_state import PrivacyState
from coordinator_worker.state.roster import Roster
from coordinator_worker.state.round_record import FinalFigures, Rollback, RoundRecord
from warren_shared.tensors.layout import Weights

Ledger = Mapping[str, frozenset[int]]  # client -> base versions whose update is in the model
Setup = Mapping[str, Any]  # with which settings and programs versions are made, from one on

# A checkpoint is written whole each round, so what is in it must not grow for ever.
HISTORY_ROUNDS: Final = 1000


@dataclass(frozen=True)
class Best:
    """Version ``version``, whose monitored metric was ``value``."""

    version: int
    value: float


@dataclass(frozen=True)
class State:
    """Version ``version`` of training run ``run``, and what must not be counted into it again.

    ``(client, base version)`` identifies a contribution; ``applied`` remembers those in the model
    for as long as they could come again and still be fresh enough. ``history`` has one record for
    each of the newest HISTORY_ROUNDS rounds, and the newest alone has what each client said
    (``clients``) and what a region's federation above is told (``above``). ``run`` is random, and
    the seed of what is drawn in this run.
    ``fixed_state`` are digests of what has to be equal at every site
    (`warren_shared.protocol.messages`).
    ``slots`` is what server optimizer and aggregator remember, in the model's layout; the next
    round changes it in place. ``best`` is the version that was found best so far.
    ``audit_head`` is the digest of the audit log's last line when this was written. ``signers`` are
    the ids of the keys that the coordinator who wrote it signs with: two federations may have one
    name, and not one key. Empty: of any. ``privacy`` is what a private run has promised and spent.
    ``enrolled`` are who may take part, as far as the broker has told.
    ``monitored``: by which metric ``best`` is the best, as ``--monitor`` says it.
    """

    federation: str
    run: str
    version: int
    weights: Weights
    applied: Ledger
    history: tuple[RoundRecord, ...] = ()
    roster: Roster = field(default_factory=dict)
    slots: Mapping[str, Weights] = field(default_factory=dict)
    best: Best | None = None
    oldest_base: int = 0
    setup: tuple[Setup, ...] = ()
    fixed_state: Mapping[str, str] = field(default_factory=dict)
    audit_head: str = ""
    signers: tuple[str, ...] = ()
    privacy: PrivacyState | None = None
    monitored: str = ""
    enrolled: Enrolled = NOBODY

    @property
    def unseen(self) -> list[str]:
        """Clients and fleets that are enrolled, and of which nothing has ever come."""
        return self.enrolled.unseen(self.roster)

    @property
    def rolled_back(self) -> Rollback | None:
        """Where this version's weights are from, if it was made by a rollback."""
        return self.history[-1].rolled_back if self.history else None

    def has_applied(self, client: str, base_version: int) -> bool:
        """Whether that client's update from that version is in the model already."""
        return base_version in self.applied.get(client, ())

    def after(
        self,
        weights: Weights,
        contributions: Iterable[tuple[str, int]],
        record: RoundRecord,
        max_staleness: int,
    ) -> "State":
        """The state one version on, with ``contributions`` in the ledger.

        The ledger forgets what is so old that it would be refused as stale anyway.
        """
        oldest = self.version - max_staleness
        applied = {
            client: frozenset(base for base in bases if base >= oldest)
            for client, bases in self.applied.items()
        }
        for client, base in contributions:
            applied[client] = applied.get(client, frozenset()) | {base}
        return replace(
            self,
            version=self.version + 1,
            weights=weights,
            applied={client: bases for client, bases in applied.items() if bases},
            history=(*_shorter(self.history), record)[-HISTORY_ROUNDS:],
        )


def with_figures(
    state: State,
    version: int,
    *,
    evaluated: Mapping[str, float] | None = None,
    final_evaluation: FinalFigures | None = None,
) -> State:
    """``state`` with these figures in the record of ``version``; as it is if that is gone."""
    history = tuple(
        replace(
            record,
            evaluated=record.evaluated if evaluated is None else evaluated,
            final_evaluation=final_evaluation or record.final_evaluation,
        )
        if record.version == version
        else record
        for record in state.history
    )
    return replace(state, history=history)


def status(state: State | None, updates: int, quorum: int, *, active: bool) -> str:
    """What a coordinator does that has ``updates`` of a round, in a few words for people."""
    if not active:
        return "standing by: another coordinator is active"
    if state is None:
        return "waiting for initial weights from a client"
    return f"version {state.version} is out, {updates} of {quorum} updates to the next"


def _shorter(history: tuple[RoundRecord, ...]) -> tuple[RoundRecord, ...]:
    return (*history[:-1], history[-1].shortened()) if history else history
