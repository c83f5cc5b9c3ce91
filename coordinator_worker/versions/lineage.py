"""What a version is made of, across rollbacks: the rounds behind it, and whose updates they held.

After a rollback from version 40 to 30, version 41 is what rounds 1 to 30 made: who contributed
only to what was rolled back is not in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from coordinator_worker.state.roster import Member, Roster
from coordinator_worker.state.round_record import Rollback, RoundRecord
from coordinator_worker.storage import audit_files
from coordinator_worker.storage.audit_log import digest_of
from coordinator_worker.versions import audit_report
from coordinator_worker.versions.audit_report import Made
from coordinator_worker.versions.registry import ModelRegistry


@dataclass(frozen=True)
class Lineage:
    """The ``rounds`` (by the version they made) that are in a version, oldest first.

    ``roster``: who contributed, as of the last of them, with positions among the rounds in place of
    versions. ``complete``: the audit log tells of every round; else what is missing is not counted.
    ``digest`` of the version, if anybody knows it; ``faults``: what is wrong with the log.
    """

    version: int
    rounds: tuple[int, ...]
    roster: Roster
    complete: bool
    digest: str | None
    faults: tuple[str, ...]
    head: str | None


def lineage(past: ModelRegistry, version: int) -> Lineage:
    """That of ``version``, from checkpoint and audit log."""
    folder = past.folder
    lines = list(audit_files.read(folder)) if audit_files.any_of(folder) else []
    run = past.state.run
    made = {m.version: m for m in audit_report.versions(lines).values() if m.run == run}
    rounds = tuple(reversed(list(_rounds(past, made, version))))
    told = [made[number] for number in rounds if number in made]
    places = {number: place for place, number in enumerate(rounds, start=1)}
    return Lineage(
        version,
        rounds,
        _roster(told, places) if told else past.state.roster,  # as of now: all there is
        complete=len(told) == len(rounds),
        digest=_digest(past, made, version),
        faults=tuple(audit_report.faults(lines)),
        head=digest_of(lines[-1][1]) if lines else None,
    )


def records(past: ModelRegistry, line: Lineage) -> list[RoundRecord]:
    """What the history still knows of its rounds."""
    return [record for number in line.rounds if (record := past.record(number))]


def _rounds(past: ModelRegistry, made: Mapping[int, Made], version: int) -> Iterator[int]:
    """Newest first. A copy of a file that a person brought has nothing behind it that we know."""
    while version > 0:
        origin = _origin(past, made, version)
        if origin is None:
            yield version
            version -= 1
        else:
            before = origin.version
            version = before if before is not None and before < version else 0


def _origin(past: ModelRegistry, made: Mapping[int, Made], version: int) -> Rollback | None:
    record = past.record(version)
    if record is not None and record.rolled_back is not None:
        return record.rolled_back
    return made[version].rolled_back_to if version in made else None


def _roster(told: list[Made], places: Mapping[int, int]) -> Roster:
    members: dict[str, Member] = {}
    for made in told:
        for entry in _entries(made):
            client = str(entry.get("client"))
            member = members.get(client, Member())
            members[client] = replace(
                member,
                version=places[made.version],
                contributions=member.contributions + 1,
                examples=int(entry.get("num_examples") or 0),
            )
    return members


def _entries(made: Made) -> list[Mapping[str, Any]]:
    return list(made.line.get("contributions", []))


def _digest(past: ModelRegistry, made: Mapping[int, Made], version: int) -> str | None:
    if version == past.state.version:
        return past.find("current").facts["digest"]
    if version in past.kept:
        return past.kept[version].facts.get("digest")
    published = made[version].published if version in made else None
    return str(published["digest"]) if published else None
