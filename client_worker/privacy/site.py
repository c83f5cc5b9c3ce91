"""What a site lets runs have of its privacy: the ledger in its state folder, and who asks."""

import os
from math import floor
from pathlib import Path
from typing import Final

from client_worker.privacy.budget import StepBudget
from client_worker.privacy.ledger import Claim, Ledger, total
from client_worker.privacy.terms import (
    NO_FOLDER,
    PRIVACY_LIMIT,
    RECORD_PRIVACY,
    PrivacyLimit,
    Random,
    RecordPrivacy,
    Refused,
)
from warren_shared.errors import ConfigError
from warren_shared.observability.log import Log
from warren_shared.protocol.messages import ModelManifest, PrivacyTerms

log = Log(__name__)

CLOSE: Final = 1e-9  # by so much, relatively, figures may differ that ought to be equal


class SitePrivacy:
    """Of one client; without terms and limit it lets everything pass.

    A run on records is paid for by the step: ``record`` is for all runs in this ledger together,
    or, with ``limit``, for each of them as long as their total stays within the limit. So no
    coordinator gets more out of a site by beginning another run.
    """

    def __init__(
        self,
        federation: str,
        state_dir: Path | None,
        record: RecordPrivacy | None = None,
        limit: PrivacyLimit | None = None,
    ) -> None:
        self.record, self._limit = record, limit
        self._federation, self._folder = federation, state_dir
        self._ledger: Ledger | None = None
        self._manifest: ModelManifest | None = None  # of the model that is trained from
        self._client = ""
        self._told = ""  # the run whose budget was said to be spent
        if record is not None or limit is not None:
            self._open()

    def _open(self) -> None:
        if self._folder is None:
            raise ConfigError(NO_FOLDER)
        if self._ledger is None:
            self._ledger = Ledger.open(self._folder)

    @property
    def keeps_records(self) -> bool:
        """Whether nothing may be told of single records."""
        return self.record is not None

    def adopt(self, task: StepBudget | None) -> StepBudget | None:
        """The budget for a client whose task has that of ``task``; None if it needs none.

        Raises ConfigError if the task's is another than the command line's.
        """
        if task is not None:
            if self.record is not None and task.terms != self.record:
                raise ConfigError(
                    f"{RECORD_PRIVACY} {self.record}: the task has record_privacy={task.terms}:"
                    " leave one of them out"
                )
            self.record = task.terms
            self._open()
        return _LedgerBudget(self, self.record) if self.record is not None else None

    def admit(self, client: str, manifest: ModelManifest) -> bool:
        """Whether ``client`` may train from ``manifest``'s model, or send what it has trained.

        What the run promises its clients is on the disk when this returns.

        Raises Refused if the limit does not allow for it.
        """
        self._client, self._manifest = client, manifest
        if self.record is not None:
            return self._steps_left() > 0
        if self._limit is not None:
            self._claim(manifest)
        return True

    def has_trained(self, manifest: ModelManifest, version: int) -> bool:
        """Whether an update from ``version`` of this run was made with noise."""
        if self._ledger is None or self.record is None:
            return True
        mine = [claim for claim in self._ledger.claims if self._is_of(claim, manifest)]
        return any(claim.unit == "record" and claim.version == version for claim in mine)

    def spent_words(self) -> str:
        """Why there are no steps left, once for each run; "" if it has been said."""
        run = self._manifest.run if self._manifest is not None else ""
        if self._told == run or self.record is None:
            return ""
        self._told = run
        if self._here().spent >= self.record.steps:
            return (
                f"{RECORD_PRIVACY}: all {self.record.steps} steps of this site's budget are spent;"
                " it trains no more in this run"
            )
        if self._limit is not None:
            return (
                f"{PRIVACY_LIMIT} {self._limit}: what this site has spent leaves no step; it trains"
                " no more in this run"
            )
        return (
            f"{RECORD_PRIVACY}: this site's budget is spent, by other runs or under other terms:"
            f" {PRIVACY_LIMIT} allows for more runs; it trains no more in this one"
        )

    def spend(self, steps: int) -> int:
        """Up to ``steps`` steps for the model that was admitted; see StepBudget."""
        granted = min(steps, self._steps_left())
        if granted < 1 or self._ledger is None or self._manifest is None:
            raise Refused(f"{RECORD_PRIVACY}: no step is left of this site's budget")
        here, version = self._here(), self._manifest.version
        self._ledger.put(
            here.model_copy(
                update={"spent": here.spent + granted, "version": version, "client": self._client}
            )
        )
        return granted

    def _claims(self) -> list[Claim]:
        if self._ledger is None:
            raise RuntimeError("there is no ledger")
        return self._ledger.claims

    def _is_of(self, claim: Claim, manifest: ModelManifest) -> bool:
        return (claim.federation, claim.run) == (self._federation, manifest.run)

    def _here(self) -> Claim:
        """What this run has spent under the terms of today."""
        terms, manifest = self.record, self._manifest
        if terms is None or manifest is None:
            raise RuntimeError("admit comes before everything else")
        new = Claim(
            unit="record",
            federation=self._federation,
            run=manifest.run,
            client=self._client,
            epsilon=terms.epsilon,
            delta=terms.delta,
            clip=terms.clip,
            steps=terms.steps,
            examples=terms.examples,
            version=manifest.version,
        )
        return next((one for one in self._claims() if one.is_of_the_same_terms(new)), new)

    def _steps_left(self) -> int:
        here = self._here()
        terms = self.record
        if terms is None or self._manifest is None:
            raise RuntimeError("admit comes before everything else")
        # Without a limit only what was spent in the name of records counts, but of all runs.
        others = [one for one in self._claims() if not one.is_of_the_same_terms(here)]
        of_records = [one for one in others if one.unit == "record"]
        left = terms.steps - here.spent
        bounds = [(terms.mu, [one for one in of_records if self._is_of(one, self._manifest)])]
        if self._limit is None:
            bounds = [(terms.mu, of_records)]
        else:
            bounds.append((self._limit.mu, others))
        for mu, spent in bounds:
            # In the unit of records, whatever the others are.
            square = mu**2 - total([here, *spent]).mu ** 2
            left = min(left, floor(square / terms.mu_of_step**2 + CLOSE * terms.steps))
        return max(0, left)

    def _claim(self, manifest: ModelManifest) -> None:
        promise, limit = manifest.privacy, self._limit
        if limit is None or self._ledger is None:
            raise RuntimeError("there is no limit")
        if promise is None:
            raise Refused(
                f"{PRIVACY_LIMIT} {limit}: this run promises its clients no privacy, and this"
                f" client has no {RECORD_PRIVACY}"
            )
        new = self._promised(manifest, promise)
        others = [one for one in self._claims() if not one.is_of_the_same_terms(new)]
        if len(others) < len(self._claims()):
            return  # it was within the limit when it began, and has claimed all of it then
        whole = total([*others, new])
        if whole.mu > limit.mu * (1 + CLOSE):
            raise Refused(
                f"{PRIVACY_LIMIT} {limit}: with this run, of epsilon={promise.epsilon:g} and"
                f" delta={promise.delta:g}, all runs would come to"
                f" epsilon={whole.epsilon(limit.delta):.5g}"
            )
        self._ledger.put(new)

    def _promised(self, manifest: ModelManifest, promise: PrivacyTerms) -> Claim:
        return Claim(
            unit="client",
            federation=self._federation,
            run=manifest.run,
            client=self._client,
            epsilon=promise.epsilon,
            delta=promise.delta,
            clip=promise.clip,
            contributions=promise.contributions,
            version=manifest.version,
        )


class _LedgerBudget:
    """Steps that are written into the ledger before they are taken."""

    def __init__(self, site: SitePrivacy, terms: RecordPrivacy) -> None:
        self.terms = terms
        self.random: Random = os.urandom
        self._site = site

    def spend(self, steps: int) -> int:
        return self._site.spend(steps)
