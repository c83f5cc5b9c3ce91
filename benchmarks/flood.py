"""What a hostile client costs the honest ones: seconds a round while it floods, and without it.

``python -m benchmarks.flood``: four honest ``client-worker`` processes, and an enrolled client that
sends at full speed what is of no use (`benchmarks.clients.flood_client`), all on one machine. Every
round still counts each honest client once (the ledger is checked), or this fails.
"""

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from rich.console import Console

from benchmarks.clients.flood_client import KINDS
from benchmarks.harness.federation import WARM_UP, Run, Stand, client_workers, names, run, stand
from benchmarks.harness.matrix import Case, parse_cases
from benchmarks.harness.preparation import prepare
from benchmarks.harness.processes import last_line, python
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row
from broker_config.declaration.federation import Federation
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from warren_shared.tensors.layout import Weights

CASE: Final = "4x4MB"
HOSTILE: Final = "mallory"
RUN: Final = "ab" * 4
RUN_S: Final = 120.0
QUIET: Final = "nobody"
NOWHERE: Final = "nowhere"


@dataclass(frozen=True)
class Lap:
    """One run, and how many messages a second the hostile client got rid of meanwhile."""

    run: Run
    seconds: float
    sent_a_second: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    prepare()
    (case,) = parse_cases(CASE)
    laps = measure(
        case,
        1 if given.short else 5,
        4 if given.short else 20,
        dict.fromkeys((*given.kinds, NOWHERE)),
    )
    publish("flood", "A round while a client floods", rows(case, laps), folder=given.out)
    return 0


def measure(
    case: Case, repetitions: int, rounds: int, kinds: Collection[str]
) -> Mapping[str, list[Lap]]:
    """Every flood in turn, each beside none."""
    laps: dict[str, list[Lap]] = {kind: [] for kind in (QUIET, *kinds)}
    clients = (*names(case), HOSTILE)
    federation = Federation(clients=clients, fleets=(), model_bytes=case.size_bytes)
    for _ in range(repetitions):
        for kind, made in laps.items():
            with stand(federation) as on:  # a new one: what is left in the queue is no flood
                made.append(_lap(on, case, rounds + WARM_UP, kind))
        told = ", ".join(f"{kind} {made[-1].seconds:.3f} s" for kind, made in laps.items())
        Console(stderr=True).print(f"{case}: {told}")
    return laps


def _lap(on: Stand, case: Case, rounds: int, kind: str) -> Lap:
    weights = Weights.of([np.zeros(case.size_bytes // 4, np.float32)])
    folder = on.folder / "checkpoint"
    folder.mkdir()
    checkpoint.save(folder, State(Federation.name, RUN, 0, weights, applied={}))
    late = ("--max-staleness", str(rounds))  # or what is begun would soon be refused as too late
    with client_workers(on, case) as clients:
        if kind == QUIET:
            return _lap_of(run(on, case, clients, rounds, RUN_S, *late), 0.0)
        arguments = (str(on.bundle(HOSTILE)), kind, str(RUN_S), str(case.size_bytes), RUN)
        log = on.folder / "flood.log"
        with python("benchmarks.clients.flood_client", log, *arguments):
            found = run(on, case, clients, rounds, RUN_S, *late)
    told = json.loads(last_line(log))
    return _lap_of(found, told["sent"] / told["seconds"])


def _lap_of(one: Run, sent_a_second: float) -> Lap:
    return Lap(one, median(one.round_seconds), sent_a_second)


def rows(case: Case, laps: Mapping[str, list[Lap]]) -> list[Row]:
    """A row for each flood, beside none and beside one that reaches no queue."""
    quiet, nowhere = ([lap.seconds for lap in laps[kind]] for kind in (QUIET, NOWHERE))
    return [
        Row(
            case=f"{case}, {kind} floods" if kind == QUIET else f"{case}, flood of {kind}",
            unit="s",
            ours=median(lap.seconds for lap in each),
            limit=median(quiet),
            limit_name="no flood",
            peer=median(nowhere),
            peer_name="a flood that reaches no queue",
            spread=(min(lap.seconds for lap in each), max(lap.seconds for lap in each)),
            peak_rss_bytes=max(lap.run.coordinator_rss_bytes for lap in each),
            model_bytes=case.size_bytes,
            more={
                "runs": len(each),
                "rounds_each": len(each[0].run.round_seconds),
                "slowest_round_s": max(max(lap.run.round_seconds) for lap in each),
                "hostile_messages_a_second": median(lap.sent_a_second for lap in each),
            },
        )
        for kind, each in laps.items()
    ]


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="once, and fewer rounds")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="floods (all)")
    return flags


if __name__ == "__main__":
    sys.exit(main())
