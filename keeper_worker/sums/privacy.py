"""What a private run allows, as the keeper was told itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from keeper_worker.ledger.entries import Row
from keeper_worker.ledger.history import RunHistory
from warren_shared.config.client_privacy import ClientPrivacy
from warren_shared.errors import ConfigError
from warren_shared.privacy.mechanism import Calibration, Correlation
from warren_shared.protocol.messages import PrivacyTerms, Unmask

RING = 32


@dataclass(frozen=True)
class NoiseRules:
    """``promise`` for ``rounds`` sums of ``quorum`` updates at most."""

    promise: ClientPrivacy
    rounds: int
    quorum: int

    @property
    def terms(self) -> PrivacyTerms:
        """What clients have to be told."""
        return self.promise.terms(self.rounds)

    def calibration(self, size: int, correlation: Correlation | None) -> Calibration:
        """The noise of sums of ``size`` integers; raises ConfigError."""
        return _calibration(self, size, correlation or _best(self))

    def objection(
        self, request: Unmask, size: int, run: RunHistory | None, *, repeats: bool
    ) -> str:
        """Why a sum cannot be given with noise, "" if it can; clients are looked at elsewhere."""
        secure = request.secure
        if request.privacy != self.terms:
            return (
                f"clients were told other terms than this keeper, whose noise is for {self.promise}"
                f" in {self.rounds} rounds: give both the same --privacy and --rounds"
            )
        if len(request.updates) > self.quorum:
            return f"{len(request.updates)} updates are more than the --quorum {self.quorum}"
        if secure.examples != 1 or secure.ring != RING or secure.clip != self.promise.clip:
            return (
                "masks of a private run weigh all clients alike, in a ring of 32 bits, by its clip"
            )
        return self._run_objection(size, run, repeats=repeats) or self._scale_objection(
            request, size, run
        )

    def _run_objection(self, size: int, run: RunHistory | None, *, repeats: bool) -> str:
        known = run.newest.noise if run is not None else None
        if run is not None and known is None:
            return "the run was begun without noise, and what it has given away cannot be noised"
        if known is not None and known.size != size:
            return f"the run has sums of {known.size} integers, not of {size}"
        if run is not None and not repeats and run.newest.rounds >= self.rounds:
            return f"all {self.rounds} rounds that the noise is made for are given away"
        return ""

    def _scale_objection(self, request: Unmask, size: int, run: RunHistory | None) -> str:
        try:
            calibration = self.calibration(size, correlation_of(run))
            scale = self.promise.mask_scale(calibration, request.secure.weights[0])
        except ConfigError as error:
            return str(error)
        if request.secure.scale != scale:
            return (
                f"masked updates have {request.secure.scale!r} steps for 1.0, and the noise is for"
                f" {scale!r}: give coordinator and keeper the same --privacy, --rounds and --quorum"
            )
        return ""

    def spent(self, rows: tuple[Row, ...], run: RunHistory | None) -> Iterator[tuple[str, Row]]:
        """Those of ``rows`` whose clients may not be in another sum, or not yet."""
        done = run.newest.rounds if run is not None else 0
        here: set[str] = set()
        for row in rows:
            known = run.participations.get(row.client) if run is not None else None
            if known is not None and known.contributions >= self.promise.contributions:
                yield "spent", row
            elif row.client in here or (
                known is not None and done - known.last < self.promise.distance
            ):
                yield "early", row
            here.add(row.client)


def correlation_of(run: RunHistory | None) -> Correlation | None:
    """That of a run's noise so far."""
    if run is None or run.newest.noise is None:
        return None
    return Correlation(run.newest.noise.theta, run.newest.noise.omega)


@lru_cache(maxsize=4)
def _best(rules: NoiseRules) -> Correlation:
    return rules.promise.correlation(rules.rounds)


@lru_cache(maxsize=4)
def _calibration(rules: NoiseRules, size: int, correlation: Correlation) -> Calibration:
    return rules.promise.calibration(rules.rounds, rules.quorum, size, correlation)
