"""What one slow or dead client costs the others: seconds a round, with and without waiting for it.

``python -m benchmarks.straggler``: four real ``client-worker`` processes whose training takes a
tenth of a second; the last takes ten times as long, or is halted. With a quorum of three of four,
and late updates that count, a round should last as long as if all were well.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.harness import lag
from benchmarks.harness.federation import names, stand
from benchmarks.harness.lag import CASE, SLOWNESS, Lap, Situation
from benchmarks.harness.preparation import prepare
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row
from broker_config.declaration.federation import Federation

ALL, ALL_BUT_ONE = CASE.clients, CASE.clients - 1
SITUATIONS: Final = (
    Situation(f"all well, quorum {ALL} of {ALL}", ALL),
    Situation(f"all well, quorum {ALL_BUT_ONE} of {ALL}", ALL_BUT_ONE),
    Situation(f"one {SLOWNESS} × slower, quorum {ALL_BUT_ONE} of {ALL}", ALL_BUT_ONE, slow=True),
    Situation(f"one dead, quorum {ALL_BUT_ONE} of {ALL}", ALL_BUT_ONE, dead=True),
    Situation(f"one {SLOWNESS} × slower, quorum {ALL} of {ALL}", ALL, slow=True),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    prepare()
    laps = measure(given.repetitions or (1 if given.short else 5), 15 if given.short else 40)
    title = "A round of four clients, of whom one is slow or dead"
    publish("straggler", title, rows(laps), folder=given.out)
    return 0


def measure(repetitions: int, rounds: int) -> Mapping[Situation, list[Lap]]:
    """Every situation in turn, so that all see the machine's slow moments."""
    laps: dict[Situation, list[Lap]] = {situation: [] for situation in SITUATIONS}
    federation = Federation(clients=names(CASE), fleets=(), model_bytes=CASE.size_bytes)
    with stand(federation) as on, lag.clients(on) as workers:
        for repetition in range(repetitions):
            for place, situation in enumerate(SITUATIONS):
                waits = situation.slow and situation.quorum == ALL
                number = repetition * len(SITUATIONS) + place
                count = max(2, rounds // SLOWNESS) if waits else rounds
                laps[situation].append(lag.lap(on, number, situation, workers, count))
    return laps


def rows(laps: Mapping[Situation, list[Lap]]) -> list[Row]:
    """A row for each situation.

    Beside the first, in which all are well and all are waited for, and with a straggler that is not
    waited for beside the second, in which all are well and four updates make more than a round.
    """
    first, second, *others = SITUATIONS
    medians = {situation: median(lap.seconds for lap in laps[situation]) for situation in laps}
    found = [replace(_row(first, laps[first]), limit=lag.TRAINING_S, limit_name="training alone")]
    for situation in (second, *others):
        row = replace(_row(situation, laps[situation]), limit=medians[first], limit_name=first.name)
        if situation is not second and situation.quorum == second.quorum:
            row = replace(row, peer=medians[second], peer_name=second.name)
        found.append(row)
    return found


def _row(situation: Situation, laps: Sequence[Lap]) -> Row:
    seconds = [each.seconds for each in laps]
    folded = sum(each.rounds for each in laps) * situation.quorum
    counted = sum(each.counted for each in laps)
    return Row(
        case=situation.name,
        unit="s",
        ours=median(seconds),
        spread=(min(seconds), max(seconds)),
        more={
            "repetitions": len(laps),
            "rounds_each": laps[0].rounds,
            "training_s": lag.TRAINING_S,
            "straggler_training_s": situation.straggler_s,
            "stragglers_updates_counted": counted,
            "stragglers_updates_too_late": sum(each.lost for each in laps),
            "stragglers_share_percent": 100 * counted / folded,
        },
    )


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="once, and fewer rounds")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--repetitions", type=int, help="of each situation, in turn (5)")
    return flags


if __name__ == "__main__":
    sys.exit(main())
