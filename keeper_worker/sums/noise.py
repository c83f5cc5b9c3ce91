"""The noise of a sum: the same for the same set, so that asking again averages nothing away."""

from contextlib import ExitStack
from dataclasses import replace
from hmac import digest as hmac

import numpy as np

from keeper_worker.ledger.entries import Entry, NoiseUsed
from keeper_worker.ledger.history import RunHistory
from keeper_worker.ledger.slots import Slots
from keeper_worker.sums.privacy import NoiseRules, correlation_of
from keeper_worker.sums.rules import Plan
from warren_shared.privacy.mask import Ring
from warren_shared.privacy.mechanism import Calibration, Correlation
from warren_shared.privacy.noise import BLOCK, DiscreteGaussian, KeyStream


class NoiseSource:
    """Takes noise off sums of masks, so that what is left of a sum of updates has it added.

    ``secret`` is what nobody but the keeper knows; ``slots`` hold what correlates rounds.
    """

    def __init__(self, rules: NoiseRules, secret: bytes, slots: Slots) -> None:
        self._rules, self._secret, self._slots = rules, secret, slots

    def draw(self, plan: Plan, total: Ring, run: RunHistory | None) -> Entry:
        """Take the noise off ``total``; return the ledger's line, which says which it was.

        What the next round needs is on the disk then. Of a set that was revealed, all is as it was.

        Raises:
            OSError: the disk does not take it.
            ConfigError: what is kept is damaged.
        """
        entry = plan.entry
        known = run.newest.noise if run is not None else None
        if plan.repeats and entry.noise is not None:
            used = entry.noise
            correlation = Correlation(used.theta, used.omega)
            calibration = self._rules.calibration(used.size, correlation)
            self._subtract(entry, total, calibration, used.before, keep=False)
            return entry
        calibration = self._rules.calibration(plan.elements, correlation_of(run))
        before = known.after if known is not None else ""
        after = self._subtract(entry, total, calibration, before, keep=True)
        told = calibration.correlation
        return replace(entry, noise=NoiseUsed(told.theta, told.omega, total.size, before, after))

    def revealed(self, entry: Entry) -> None:
        """``entry`` is in the ledger: what is older is not needed any more."""
        if entry.noise is not None and entry.noise.after:
            self._slots.keep_only(entry.run, entry.rounds)

    def _subtract(
        self, entry: Entry, total: Ring, calibration: Calibration, before: str, *, keep: bool
    ) -> str:
        """Return the digest of what is kept, "" if there is nothing."""
        stream = KeyStream(hmac(self._secret, entry.digest, "sha256"))
        gaussian = DiscreteGaussian(calibration.sigma)
        correlation = calibration.correlation
        with ExitStack() as stack:
            reader = stack.enter_context(self._slots.reading(entry.run, entry.rounds - 1, before))
            keeps = keep and bool(correlation.omega)
            writer = (
                stack.enter_context(self._slots.writing(entry.run, entry.rounds)) if keeps else None
            )
            for first in range(0, total.size, BLOCK):
                here = total[first : first + BLOCK]
                kept = reader.read(here.size)
                noise = correlation.correlated(gaussian.draw(stream, here.size), kept)
                np.subtract(here, noise.astype(here.dtype), out=here)
                if writer is not None:
                    writer.write(kept)
        return writer.digest if writer is not None else ""
