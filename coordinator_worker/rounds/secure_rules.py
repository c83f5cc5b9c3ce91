"""``--secure``: what a run of masked updates asks of other settings, and tells clients."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, log2
from typing import Any, Final, Self

from coordinator_worker.aggregation.masked_cohort import Masking
from coordinator_worker.rounds.privacy_rules import PrivacyRules
from coordinator_worker.rounds.staleness import share_of
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.training_state import State
from warren_shared.config import parameters
from warren_shared.errors import ConfigError, Rejected
from warren_shared.naming import user_of
from warren_shared.protocol.masking import weight_elements
from warren_shared.protocol.messages import FigureNames, MaskTerms
from warren_shared.tensors import ring as rings
from warren_shared.tensors.layout import Layout

# What only updates in clear allow, and why.
REFUSED: Final = {
    "scaffold": "control variates are not masked",
    "clip_norm": "nobody sees the norm of an update; its own clip= is the bound",
}
# Those whose result is a sum of what each client can compute alone.
AGGREGATORS: Final = ("mean", "uniform", "fedbuff")
WHY_NOT: Final = {
    "fednova": "each update would have to be divided by steps that only its client knows",
    "by-participation": "a weight by participation would single out one client's update",
}
HALF_BITS: Final = 4  # weights of late updates go down to 1/16


@dataclass(frozen=True, kw_only=True)
class Secure:
    """What ``--secure`` says."""

    clip: float
    least: int = 3
    ring: int = 32
    examples: int | None = None

    def __post_init__(self) -> None:
        if not self.clip > 0 or not isfinite(self.clip):
            raise ValueError(f"clip is {self.clip:g}; it is the largest norm of an update, above 0")
        if self.least < 2:
            raise ValueError(f"least is {self.least}; a sum of 2 or more hides each of them")
        if self.ring not in rings.RINGS:
            raise ValueError(f"ring is {self.ring}; it is 16 or 32 bits")
        if self.examples is not None and not 1 <= self.examples <= 1 << 20:
            raise ValueError(f"examples is {self.examples}; it is from 1 to {1 << 20:,}")


def secure(words: str) -> Secure:
    """What ``words`` say; raises ConfigError."""
    return parameters.call(Secure, words, named=f"--secure {words}")


@dataclass(frozen=True)
class SecureRules:
    """How updates are masked; ``keeper`` is the id of its key, ``weights`` those of late updates.

    ``most``: no sum is of more updates.
    """

    asked: Secure
    keeper: str
    quorum: int
    most: int
    weights: tuple[int, ...]
    examples: int
    counts: bool
    privacy: PrivacyRules | None

    @classmethod
    def from_settings(
        cls, settings: CoordinatorSettings, privacy: PrivacyRules | None
    ) -> Self | None:
        """As ``--secure`` says; None without it.

        Raises:
            ConfigError: another setting contradicts it, or the federation has no keeper.
        """
        keeper = settings.keeper
        if settings.secure is None:
            if keeper is not None:
                raise ConfigError(
                    "this federation has a keeper, and its clients send nothing in clear: add"
                    " --secure clip=NORM, or take the keeper away with `broker-config apply"
                    " --keeper none` and hand out all bundles again"
                )
            return None
        asked = secure(settings.secure)
        _check_others(settings, asked)
        if keeper is None:
            raise ConfigError(
                "--secure needs a keeper, and the bundle names none: `keeper-worker keys` at"
                " another organisation, then `broker-config apply --keeper` with what it prints"
            )
        if settings.quorum < asked.least:
            raise ConfigError(
                f"--quorum {settings.quorum}: with --secure a sum is of {asked.least} clients or"
                " more (least=): raise the quorum"
            )
        name = settings.aggregator.partition(":")[0]
        by_examples = name == "mean" and privacy is None
        if by_examples and asked.examples is None:
            raise ConfigError(
                "--secure with --aggregator mean: add examples=N, how many the largest site has,"
                " since updates weigh as their examples, N at most; or use --aggregator uniform"
            )
        weights = weights_of(settings)
        return cls(
            asked,
            keeper,
            settings.quorum,
            settings.quorum if privacy is not None else 2 * settings.quorum,
            weights,
            (asked.examples or 1) if by_examples else 1,
            counts=name == "fedbuff",
            privacy=privacy,
        )

    @cached_property
    def limb(self) -> int:
        """Bits of an integer of which a round's still add up."""
        found = rings.limb_bits(self.asked.ring, self.most, self.weights[0])
        if found < (20 if self.asked.ring == 32 else 6):
            raise ConfigError(
                f"--secure ring={self.asked.ring}: sums of {self.most} updates leave {found} bits"
                " for each: lower --quorum or --max-staleness, or use ring=32"
            )
        return found

    @property
    def encoding(self) -> str:
        """What updates are called on the wire."""
        return rings.encoding_of(self.asked.ring)

    def check_layout(self, layout: Layout) -> None:
        """Raise ConfigError if the model cannot be masked."""
        try:
            rings.elements(layout, self.asked.ring)
        except Rejected as rejected:
            raise ConfigError(
                f"--secure: {rejected}: use GroupNormalization or LayerNormalization, or keep them"
                " at the site (local=)"
            ) from None

    def terms(self, state: State) -> MaskTerms:
        """What clients are told of masks."""
        layout = state.weights.layout
        clip = self.asked.clip
        if self.privacy is not None:
            scale = self.privacy.mask_scale(state, self.weights[0])
            clip = self.privacy.promise.clip
        else:
            weight = self.weights[0]
            scale = rings.largest_scale(layout, self.asked.ring, clip, self.limb, weight)
        return MaskTerms(
            keeper=self.keeper,
            least=self.asked.least,
            ring=self.asked.ring,  # type: ignore[arg-type]
            scale=scale,
            clip=clip,
            weights=list(self.weights),
            examples=self.examples,
            limb=self.limb,
        )

    def masking(self, state: State) -> Masking:
        """How the sums of the run in ``state`` are read."""
        fixed = self.quorum if self.privacy is not None else None
        return Masking(self.terms(state), state.run, fixed, self.counts)

    def size_bytes(self, layout: Layout, terms: MaskTerms, figures: int) -> int:
        """Of an update with so many limbs of figures."""
        numbers = rings.elements(layout, terms.ring) + weight_elements(terms) + figures
        return numbers * terms.ring // 8

    def check_figures(self, names: FigureNames | None) -> None:
        """Raise Rejected(``figures``) if an update may not say these."""
        if self.privacy is not None and names is not None:
            raise Rejected("figures", "figures have no noise, and this run is private")

    def has_room(self, client: str, updates: int, clients: Iterable[str]) -> bool:
        """Whether an update of ``client`` leaves room for those of all users that are needed.

        ``updates`` are in the round, of ``clients``.
        """
        after = {user_of(one) for one in (*clients, client)}
        return self.most - updates - 1 >= self.asked.least - len(after)

    def is_enough(self, clients: Iterable[str]) -> bool:
        """Whether ``clients`` are of as many users as a sum has to be of."""
        return len({user_of(client) for client in clients}) >= self.asked.least


def weights_of(settings: CoordinatorSettings) -> tuple[int, ...]:
    """What an update counts in a sum by how many versions late it is: powers of two.

    They are the policy's (`coordinator_worker.rounds.policy`) to the nearest half, and no larger
    than they have to be, since each doubling costs a bit of all updates.
    """
    exponent, hinge = settings.staleness_exponent, settings.staleness_hinge
    shares = (share_of(late, exponent, hinge) for late in range(settings.max_staleness + 1))
    halves = [round(-log2(share)) for share in shares]
    deepest = min(max(halves), HALF_BITS)
    return tuple(1 << max(0, deepest - half) for half in halves)


def _check_others(settings: CoordinatorSettings, asked: Secure) -> None:
    """Raise ConfigError for what only works with updates in clear."""
    values: dict[str, Any] = {name: getattr(settings, name) for name in REFUSED}
    for name, why in REFUSED.items():
        if values[name] not in {None, False}:
            flag = name.replace("_", "-")
            raise ConfigError(f"--secure with --{flag}: {why}; leave --{flag} out")
    name = settings.aggregator.partition(":")[0]
    if name not in AGGREGATORS:
        why = WHY_NOT.get(name, "it compares single updates, and only their sum can be read")
        raise ConfigError(f"--secure with --aggregator {name}: {why}; use {', '.join(AGGREGATORS)}")
    if settings.uplink != "raw":
        raise ConfigError(
            f"--secure with --uplink {settings.uplink}: sums of such codes mean nothing; ring=16"
            " halves the bytes of masked updates"
        )
    if settings.max_update_norm not in {"auto", "off"}:
        raise ConfigError(
            "--secure with --max-update-norm: nobody sees the norm of an update; clip= is the bound"
        )
    if settings.privacy is not None and asked.ring != 32:
        raise ConfigError("--secure ring=16 with --privacy: the noise needs the room of ring=32")
    if settings.max_staleness and asked.ring != 32:
        raise ConfigError(
            "--secure ring=16 with --max-staleness: weights of late updates need the room of"
            " ring=32"
        )
    if not (settings.signing_keys and settings.decrypt_keys):
        raise ConfigError(
            "--secure needs the coordinator's keys (WARREN_SIGNING_KEYS, WARREN_DECRYPT_KEYS): use"
            " the bundle as `broker-config` wrote it"
        )
