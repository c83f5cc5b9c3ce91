"""When an update counts, how much, and when a round closes: policy without arithmetic or I/O."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from coordinator_worker.aggregation.aggregators import Aggregator
from coordinator_worker.rounds.privacy_rules import PrivacyRules
from coordinator_worker.rounds.secure_rules import SecureRules
from coordinator_worker.rounds.staleness import share_of
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.training_state import State
from warren_shared.config.client_privacy import ClientPrivacy
from warren_shared.errors import ConfigError, Rejected
from warren_shared.protocol.messages import MAX_EXAMPLES
from warren_shared.tensors.compression import RAW


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """``quorum`` whole updates close a round, ``min_quorum`` one that is past its deadline.

    An update trained from version v - s counts with a weight w(s), up to s = ``max_staleness``; 0
    is synchronous federated averaging. The weights are those of Xie et al. 2019, "Asynchronous
    Federated Optimization", section 5.2, with a = ``staleness_exponent``: (1 + s) ** -a, the
    polynomial one, or with a ``hinge`` b: 1 up to s = b, then 1 / (a (s - b) + 1). a = 0 makes
    either constant.

    ``uplink`` is the encoding in which clients are asked for updates; raw ones count as well.
    ``privacy``: how often, and how soon again, an update of one client counts, and that nothing
    but its weights is looked at. ``secure``: updates are masked.
    """

    quorum: int
    max_staleness: int = 0
    staleness_exponent: float = 0.5
    min_quorum: int = 1
    hinge: int | None = None
    needs_local_steps: bool = False
    max_examples: int = MAX_EXAMPLES
    uplink: str = RAW
    privacy: ClientPrivacy | None = None
    secure: SecureRules | None = None

    @classmethod
    def from_settings(
        cls,
        settings: CoordinatorSettings,
        aggregator: Aggregator,
        privacy: PrivacyRules | None = None,
        secure: SecureRules | None = None,
    ) -> Self:
        """The policy that ``settings`` name.

        Raises ConfigError if a round could close with fewer updates than ``aggregator`` needs.
        """
        least = aggregator.least
        if settings.quorum < least:
            raise ConfigError(
                f"--quorum {settings.quorum}: --aggregator {settings.aggregator} needs at least"
                f" {least} updates; raise the quorum, or let it assume fewer faulty clients"
            )
        if settings.deadline_s is not None and settings.min_quorum < least:
            raise ConfigError(
                f"--min-quorum {settings.min_quorum}: --aggregator {settings.aggregator} needs at"
                f" least {least} updates, also after the deadline"
            )
        return cls(
            quorum=settings.quorum,
            max_staleness=settings.max_staleness,
            staleness_exponent=settings.staleness_exponent,
            min_quorum=settings.min_quorum,
            hinge=settings.staleness_hinge,
            needs_local_steps=aggregator.needs_local_steps,
            max_examples=settings.max_examples,
            uplink=settings.uplink,
            privacy=privacy.promise if privacy is not None else None,
            secure=secure,
        )

    def check_examples(self, num_examples: int) -> None:
        """Raise Rejected(``examples``) if no client has so many: they are the update's weight."""
        if num_examples > self.max_examples:
            raise Rejected(
                "examples",
                f"it claims {num_examples} examples; at most {self.max_examples} are believed"
                " (--max-examples)",
            )

    def check_encoding(self, encoding: str) -> None:
        """Raise Rejected(``encoding``) unless updates may be in ``encoding``."""
        if self.secure is not None and encoding != self.secure.encoding:
            raise Rejected(
                "encoding",
                f"its encoding is {encoding}, and this federation takes masked updates alone"
                f" ({self.secure.encoding}): train from the newest model",
            )
        if self.secure is None and encoding not in (RAW, self.uplink):
            raise Rejected(
                "encoding",
                f"its encoding is {encoding}, and this federation takes {self.uplink} (--uplink):"
                " train from the newest model",
            )

    def check_contributions(self, client: str, state: State, *, is_here: bool) -> None:
        """Raise Rejected(``spent``, ``early``) if ``client`` may not be in the next round.

        ``is_here``: an update of it is in the open one.
        """
        if self.privacy is not None and state.privacy is not None:
            bounds = self.privacy.contributions, self.privacy.distance
            state.privacy.check(client, *bounds, is_here=is_here)

    def staleness_weight(self, version: int, base_version: int) -> float:
        """Weight of an update from ``base_version`` while ``version`` is current.

        Raises Rejected(``stale``) if it is too old, Rejected(``future``) if there is no such
        version yet.
        """
        staleness = version - base_version
        if staleness < 0:
            raise Rejected(
                "future", f"trained from version {base_version}, but {version} is newest"
            )
        if staleness > self.max_staleness:
            raise Rejected(
                "stale",
                f"trained from version {base_version}, {staleness} behind {version};"
                f" at most {self.max_staleness} is allowed",
            )
        if self.secure is not None:
            return float(self.secure.weights[staleness])
        return share_of(staleness, self.staleness_exponent, self.hinge)

    @property
    def hides_figures(self) -> bool:
        """Whether an update says nothing in clear but its weights, or not even them."""
        return self.privacy is not None or self.secure is not None

    @property
    def needed_when_overdue(self) -> int:
        """Updates that make a round when its time is up."""
        least = self.secure.asked.least if self.secure is not None else 1
        return max(min(self.min_quorum, self.quorum), least)

    def closes(self, updates: int, clients: Iterable[str] = (), *, overdue: bool = False) -> bool:
        """Whether ``updates`` whole updates make a round, ``overdue`` when its time is up.

        ``clients``: whose they are; masked ones have to be of several users.
        """
        if self.secure is not None and not self.secure.is_enough(clients):
            return False
        return updates >= (self.needed_when_overdue if overdue else self.quorum)
