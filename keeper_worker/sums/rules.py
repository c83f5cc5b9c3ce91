"""What the keeper refuses, each for an attack that works otherwise; what is left is a `Plan`.

A sum of masks gives away the sum of the updates that have them. So nobody gets two sums whose
difference, or any other combination, is of fewer clients than either: each update is in one sum,
with a weight that is not of the asker's choice, and a version has one sum.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from keeper_worker.ledger.entries import Entry, Row
from keeper_worker.ledger.history import History, RunHistory
from keeper_worker.sums.privacy import NoiseRules
from keeper_worker.sums.seeds import Seeds, Waiting
from warren_shared.errors import ConfigError, Rejected
from warren_shared.protocol.masking import check_weights, terms_digest
from warren_shared.protocol.messages import FigureSum, MaskedUpdate, Unmask
from warren_shared.protocol.signing import Verifier
from warren_shared.tensors.ring import dtype_of

REASONS: Final = (
    *("signature", "federation", "keeper", "gone", "version", "missing", "identity", "run"),
    *("unknown", "spent", "layout", "terms", "weight", "model", "few", "privacy", "early"),
)


class Refused(Exception):
    """A request that is not answered with a sum.

    ``transfers`` are those at fault; with the reason ``version`` those that were revealed, in their
    order. It ``may_pass``: what is missing may be on its way.
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        transfers: Iterable[str] = (),
        *,
        may_pass: bool = False,
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.transfers = list(transfers)
        self.may_pass = may_pass


class Group(NamedTuple):
    """Updates whose figures are added up, once each: of the same names."""

    told: FigureSum
    members: tuple[Waiting, ...]

    @property
    def elements(self) -> int:
        """How many integers they have."""
        return self.told.elements


@dataclass(frozen=True)
class Plan:
    """A sum that may be given away; ``repeats`` one that was.

    ``entry`` is its line in the ledger, of which the noise is still to be drawn if ``is_noised``.
    """

    entry: Entry
    repeats: bool
    is_noised: bool
    members: tuple[tuple[Waiting, int], ...]
    elements: int
    ring: int
    groups: tuple[Group, ...]
    largest_weight: int

    @property
    def size_bytes(self) -> int:
        """Of the answer."""
        elements = self.elements + sum(group.elements for group in self.groups)
        return elements * int(np.dtype(dtype_of(self.ring)).itemsize)


@dataclass(frozen=True)
class Rules:
    """What this keeper was told: whose it is, and what it gives away."""

    federation: str
    key: str  # id of the key that seeds are sealed to
    least: int = 3
    known: frozenset[str] | None = None
    max_bytes: int = 1 << 32
    noise: NoiseRules | None = None


def check_origin(request: Unmask, rules: Rules, verifier: Verifier) -> None:
    """Raise Refused unless the coordinator of this federation asks."""
    try:
        verifier.check(request)
    except Rejected:
        raise Refused(
            "signature",
            "it is not signed with a key of the coordinator that this keeper knows: give the keeper"
            " the newest bundle, keeper.env",
        ) from None
    if request.federation != rules.federation:
        raise Refused("federation", f"this keeper is that of {rules.federation!r}")


def revealed(request: Unmask, history: History) -> list[str]:
    """What was revealed for the version that is asked about; raises Refused(``gone``)."""
    run = history.runs.get(request.run)
    if run is None or request.version > run.newest.version:
        return []
    if request.version < run.newest.version:
        raise _gone(run)
    return run.newest.transfers


def plan(request: Unmask, rules: Rules, history: History, seeds: Seeds) -> Plan:
    """What to add up for ``request``, whose origin is checked.

    Raises:
        Refused: it is not given away.
    """
    run = history.runs.get(request.run)
    rows = tuple(Row(u.client, u.base_version, u.transfer, u.weight) for u in request.updates)
    if request.secure.keeper != rules.key:
        raise Refused("keeper", "the run's clients seal their seeds to another keeper's key")
    repeats = _is_repeated(request, rows, run)
    _check_once(rows, run, repeats=repeats)
    members = _members(request, seeds, run if repeats else None)
    _check_clients(members, rules)
    _check_terms(members, request)
    _check_weights(rows, request)
    models = _models(members, run)
    least = max(request.secure.least, rules.least)
    if len(users := {one.user for one in members}) < least:
        raise Refused(
            "few",
            f"they are of {len(users)} users of the broker, and no sum is of fewer than {least}:"
            " raise the coordinator's --quorum, or lower the keeper's --least",
        )
    _check_privacy(rows, request, members[0].elements, run, rules, repeats=repeats)
    weighed = tuple(zip(members, (row.weight for row in rows), strict=True))
    if run is not None and repeats:
        entry = run.newest
    else:
        rounds = (run.newest.rounds if run is not None else 0) + 1
        window = len(request.secure.weights)
        entry = Entry(rules.federation, request.run, request.version, rounds, window, rows, models)
    made = Plan(
        entry=entry,
        repeats=repeats,
        is_noised=rules.noise is not None,
        members=weighed,
        elements=members[0].elements,
        ring=request.secure.ring,
        groups=() if rules.noise is not None else _groups(entry, members, least),
        largest_weight=request.secure.weights[0],
    )
    if made.size_bytes > rules.max_bytes:
        raise Refused(
            "layout",
            f"the sum has {made.size_bytes} bytes, and this keeper gives away"
            f" {rules.max_bytes} at most: raise --max-model-bytes",
        )
    return made


def _gone(run: RunHistory) -> Refused:
    return Refused(
        "gone",
        f"version {run.newest.version} was revealed since, and the seeds of earlier ones are gone:"
        " go on from the newest checkpoint, or begin another run",
    )


def _is_repeated(request: Unmask, rows: tuple[Row, ...], run: RunHistory | None) -> bool:
    """Whether just this set was revealed for that version; raises Refused if another was."""
    if run is None or request.version > run.newest.version:
        return False
    if request.version < run.newest.version:
        raise _gone(run)
    if sorted(rows) == sorted(run.newest.updates):
        return True
    raise Refused(
        "version",
        f"another set was revealed for version {request.version}: assemble that one",
        run.newest.transfers,
    )


def _check_once(rows: tuple[Row, ...], run: RunHistory | None, *, repeats: bool) -> None:
    transfers = Counter((row.client, row.transfer) for row in rows)
    bases = Counter((row.client, row.base_version) for row in rows)
    spent = [
        row.transfer
        for row in rows
        if transfers[row.client, row.transfer] > 1
        or bases[row.client, row.base_version] > 1
        or (
            run is not None
            and not repeats
            and run.is_spent(row.client, row.transfer, row.base_version)
        )
    ]
    if spent:
        raise Refused(
            "spent",
            f"{len(spent)} of them are in a set already, or there twice, or another one of the same"
            " client and version is: leave them out",
            spent,
        )


def _members(request: Unmask, seeds: Seeds, repeated: RunHistory | None) -> list[Waiting]:
    """The seeds of a set, in its order."""
    found = [seeds.get(row.client, row.transfer) for row in request.updates]
    there = [one for one in found if one is not None]
    if len(there) < len(found):
        raise _missing(request.updates, found, seeds, repeated)
    wrong = [
        one.transfer
        for one, row in zip(there, request.updates, strict=True)
        if (one.run, one.base_version) != (request.run, row.base_version)
    ]
    if wrong:
        raise Refused("run", "their seeds are of another run or version: leave them out", wrong)
    return there


def _missing(
    rows: Sequence[MaskedUpdate],
    found: Sequence[Waiting | None],
    seeds: Seeds,
    repeated: RunHistory | None,
) -> Refused:
    missing = [row for row, one in zip(rows, found, strict=True) if one is None]
    foreign = [row.transfer for row in missing if seeds.sender(row.client, row.transfer)]
    if foreign:
        return Refused(
            "identity",
            "the broker says that others than their clients have sent their seeds: leave them out",
            foreign,
        )
    transfers = [row.transfer for row in missing]
    if repeated is not None:
        return Refused(
            "gone",
            "this set was revealed, and its seeds are gone since: begin another run",
            transfers,
            may_pass=True,
        )
    return Refused(
        "missing",
        f"{len(missing)} of them have no seed here, and their clients send it first: leave them"
        " out; if all are missing, see that clients have the bundle with this keeper's key",
        transfers,
        may_pass=True,
    )


def _check_clients(members: list[Waiting], rules: Rules) -> None:
    if rules.known is None:
        return
    unknown = [one.transfer for one in members if one.user not in rules.known]
    if unknown:
        raise Refused(
            "unknown",
            "their clients are not in the keeper's --clients file: leave them out, or have its"
            " operator add them",
            unknown,
        )


def _check_terms(members: list[Waiting], request: Unmask) -> None:
    other = [one.transfer for one in members if one.layout != request.layout]
    if other:
        raise Refused("layout", "their updates are of another layout: leave them out", other)
    elements, _ = Counter(one.elements for one in members).most_common(1)[0]
    other = [one.transfer for one in members if one.elements != elements]
    if other:
        raise Refused("layout", f"the others have {elements} elements: leave them out", other)
    digest = terms_digest(request.secure, request.privacy)
    other = [one.transfer for one in members if one.terms != digest]
    if other:
        raise Refused(
            "terms", "their clients were told other terms of masks and noise: leave them out", other
        )


def _check_weights(rows: tuple[Row, ...], request: Unmask) -> None:
    table = request.secure.weights
    try:
        check_weights(table)
    except ConfigError as error:
        raise Refused("weight", f"{error}: a sum with such weights would tell more") from None
    wrong = [
        row.transfer
        for row in rows
        if not 0 <= (late := request.version - 1 - row.base_version) < len(table)
        or row.weight != table[late]
    ]
    if wrong:
        raise Refused(
            "weight",
            "an update counts as its clients were told, by how late it is, and not if it is later:"
            " leave them out, or ask with those weights",
            wrong,
        )


def _models(members: list[Waiting], run: RunHistory | None) -> dict[int, str]:
    """The model of each base version, of which there has to be one."""
    known = dict(run.models) if run is not None else {}
    wrong = []
    for base in {one.base_version for one in members}:
        here = [one for one in members if one.base_version == base]
        told = known.get(base) or Counter(one.model for one in here).most_common(1)[0][0]
        known[base] = told
        wrong += [one.transfer for one in here if one.model != told]
    if wrong:
        raise Refused(
            "model",
            "their clients were given another model of the same version than the others: leave them"
            " out",
            wrong,
        )
    return {base: known[base] for base in {one.base_version for one in members}}


def _check_privacy(
    rows: tuple[Row, ...],
    request: Unmask,
    size: int,
    run: RunHistory | None,
    rules: Rules,
    *,
    repeats: bool,
) -> None:
    noise = rules.noise
    if noise is None:
        if request.privacy is not None:
            raise Refused(
                "privacy",
                "clients were promised noise, and this keeper was started without --privacy",
            )
        if run is not None and run.newest.noise is not None:
            raise Refused(
                "privacy", "the run has noise, and this keeper was started without --privacy"
            )
        return
    if said := noise.objection(request, size, run, repeats=repeats):
        raise Refused("privacy", said)
    if repeats:
        return
    found = list(noise.spent(rows, run))
    for reason, detail in (
        (
            "spent",
            f"their clients were in {noise.promise.contributions} sums, and may be in no more",
        ),
        ("early", f"their clients may be in a sum again {noise.promise.distance} after the last"),
    ):
        if transfers := [row.transfer for why, row in found if why == reason]:
            raise Refused(reason, f"{detail}: leave them out", transfers)


def _groups(entry: Entry, members: Sequence[Waiting], least: int) -> tuple[Group, ...]:
    """The figures that are added up, in the order in which the set was revealed at first."""
    by_key = {one.key: one for one in members}
    found: dict[tuple[str, int], list[Waiting]] = {}
    for row in entry.updates:
        one = by_key[row.client, row.transfer]
        if one.figure_elements:
            found.setdefault((one.figures, one.figure_elements), []).append(one)
    return tuple(
        Group(FigureSum(names=names, updates=len(alike), elements=elements), tuple(alike))
        for (names, elements), alike in found.items()
        if len({one.user for one in alike}) >= least
    )
