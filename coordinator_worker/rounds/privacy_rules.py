"""What a private run asks of the other settings, and of the checkpoint that it goes on from."""

import secrets
from dataclasses import dataclass, replace
from typing import Final, Self

from coordinator_worker.aggregation.private_cohort import RoundNoise
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.privacy_state import PrivacyState
from coordinator_worker.state.round_record import PrivacySpent
from coordinator_worker.state.training_state import State
from warren_shared.config.client_privacy import SMALL, ClientPrivacy, privacy
from warren_shared.errors import ConfigError
from warren_shared.observability.log import Log
from warren_shared.privacy.accountant import epsilon_of
from warren_shared.privacy.mechanism import Correlation
from warren_shared.protocol.messages import PrivacyTerms
from warren_shared.tensors.ring import elements

log = Log(__name__)

MAX_ROUNDS: Final = 10_000
# Of which every update moves the model by its clip at most; mean is the same as uniform then.
AGGREGATORS: Final = ("mean", "uniform", "fedbuff")
# What would tell of single clients, or make noise of another size necessary, and why.
REFUSED: Final = {
    "scaffold": "control variates tell of each client's data, without noise",
    "clip_norm": "its own clip= is the bound",
    "parent": "a region is one client above, so what it adds up there has no noise of its own",
    "target": "it needs the clients' metrics, and they are not sent",
    "monitor": "it needs the clients' metrics, and they are not sent",
    "patience": "it needs the clients' metrics, and they are not sent",
}


@dataclass(frozen=True)
class PrivacyRules:
    """The promise, and the ``rounds`` and ``quorum`` that its noise is made for.

    ``masked``: updates are, and the keeper adds the noise.
    """

    promise: ClientPrivacy
    rounds: int
    quorum: int
    masked: bool = False

    @classmethod
    def from_settings(cls, settings: CoordinatorSettings) -> Self | None:
        """As ``--privacy`` says; None without it.

        Raises:
            ConfigError: another setting contradicts it.
        """
        if settings.privacy is None:
            return None
        promise = privacy(settings.privacy)
        _check_others(settings)
        if settings.rounds is None:
            raise ConfigError(
                "--privacy needs --rounds: the noise is made for so many, and with the last of them"
                " the budget is spent"
            )
        if settings.quorum < SMALL and not promise.small:
            raise ConfigError(
                f"--privacy with --quorum {settings.quorum}: noise that hides one of so few"
                " clients leaves nothing of the others; let each site protect its own records"
                " (client-worker --record-privacy), or add small=true"
            )
        if settings.rounds > MAX_ROUNDS:
            raise ConfigError(
                f"--privacy with --rounds {settings.rounds}: at most {MAX_ROUNDS}; a budget for so"
                " many leaves nothing for each"
            )
        rules = cls(promise, settings.rounds, settings.quorum, settings.secure is not None)
        rules._check_enough(settings.clients, settings.max_staleness)
        if settings.participation < 1:
            log.info(
                "no_amplification",
                "--participation saves work; who is drawn is public, so it adds no privacy",
            )
        return rules

    def _check_enough(self, clients: int | None, max_staleness: int) -> None:
        """Raise ConfigError if ``clients`` are too few for all rounds."""
        apart = self.promise.distance + max_staleness  # versions, as far as a client can tell
        together = self.quorum * min(self.rounds, apart)
        if clients is not None and clients < together:
            raise ConfigError(
                f"--privacy: a client may train again {apart} versions later (distance and"
                f" --max-staleness), so {self.quorum} updates a round need {together} clients, and"
                f" there are {clients}: lower distance=, --max-staleness or --quorum"
            )
        needed, each = self.quorum * self.rounds, self.promise.contributions
        if clients is not None and clients * each < needed:
            raise ConfigError(
                f"--privacy: {self.rounds} rounds of {self.quorum} updates are {needed}, and"
                f" {clients} clients may give {each} each: lower --rounds or --quorum, or raise"
                " contributions="
            )

    @property
    def terms(self) -> PrivacyTerms:
        """What clients are told."""
        return self.promise.terms(self.rounds)

    def begin(self, state: State) -> State:
        """``state`` with what is spent so far.

        Raises:
            ConfigError: the run was begun without this promise.
        """
        layout = state.weights.layout  # padding is noised, too
        size = elements(layout, 32) if self.masked else layout.size_bytes // 4
        secret = "" if self.masked else secrets.token_hex(32)
        asked = PrivacyState(
            str(self.promise), self.rounds, self.quorum, size, secret, masked=self.masked
        )
        known = state.privacy
        if known is None and state.version:
            raise ConfigError(
                f"the checkpoint's run was begun without --privacy, and its {state.version}"
                " versions have no noise: begin a run in another --checkpoint-dir"
            )
        if known is None:
            best = self.promise.correlation(self.rounds)
            return replace(state, privacy=replace(asked, theta=best.theta, omega=best.omega))
        told = replace(known, secret="", theta=0.0, omega=0.0, done=0, participations={})
        if told.masked != self.masked:
            raise ConfigError(
                f"the checkpoint's run was begun with{'' if told.masked else 'out'} --secure, and"
                " its noise is the keeper's in one case alone: go on so, or begin a run in another"
                " --checkpoint-dir"
            )
        if told != replace(asked, secret=""):
            raise ConfigError(
                f"the checkpoint's run promises {known.mechanism} in {known.rounds} rounds of"
                f" {known.quorum} updates, for which its noise is made: go on so, or begin a run in"
                " another --checkpoint-dir"
            )
        return state

    def spent(self, done: int, noise: RoundNoise) -> PrivacySpent:
        """What ``done`` rounds have come to."""
        delta = self.promise.delta
        epsilon = epsilon_of(noise.calibration.spent(done), delta)
        return PrivacySpent(epsilon, self.promise.epsilon, delta)

    def mask_scale(self, state: State, weight: int) -> float:
        """Steps for 1.0 in an update that is masked, and counts ``weight`` times at most."""
        return self.promise.mask_scale(self.noise(state).calibration, weight)

    def noise(self, state: State) -> RoundNoise:
        """That of the run in ``state``, which ``begin`` gave."""
        if state.privacy is None:
            raise RuntimeError("begin comes before noise")
        correlation = Correlation(state.privacy.theta, state.privacy.omega)
        calibration = self.promise.calibration(
            self.rounds, self.quorum, state.privacy.size, correlation
        )
        return RoundNoise(calibration, self.promise.clip, bytes.fromhex(state.privacy.secret))


def _check_others(settings: CoordinatorSettings) -> None:
    """Raise ConfigError for what would tell of single clients, or is not bounded."""
    for name, why in REFUSED.items():
        if getattr(settings, name) not in {None, False}:
            flag = name.replace("_", "-")
            raise ConfigError(f"--privacy with --{flag}: {why}; leave --{flag} out")
    if settings.aggregator not in AGGREGATORS:
        raise ConfigError(
            f"--privacy with --aggregator {settings.aggregator}: how far one client moves what it"
            f" makes of a round is not bounded by its clip; use {', '.join(AGGREGATORS)}"
        )
    if settings.max_update_norm not in {"auto", "off"}:
        raise ConfigError(
            "--privacy with --max-update-norm: whether an update counts must not depend on its"
            " data; clip= shortens what is too long"
        )
    if settings.initial_model is None:
        raise ConfigError(
            "--privacy needs --initial-model: weights of a client would be published as they are"
        )


def check_promise(rules: PrivacyRules | None, state: State) -> None:
    """Raise ConfigError if ``state`` is of a private run, and no promise is asked for."""
    if rules is None and state.privacy is not None:
        raise ConfigError(
            f"the checkpoint's run is private: add --privacy {state.privacy.mechanism}, --rounds"
            f" {state.privacy.rounds} and --quorum {state.privacy.quorum}"
        )
