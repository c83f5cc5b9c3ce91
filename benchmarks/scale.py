"""Rounds with 10 to 1,000 clients: what one more of them costs.

``python -m benchmarks.scale``: every client has its own connection, mailbox and identity and speaks
the real protocol, but shares its process with some hundred others
(`benchmarks.clients.light_client`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.harness import fleet
from benchmarks.harness.federation import WARM_UP
from benchmarks.harness.matrix import parse_cases
from benchmarks.harness.preparation import prepare
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row
from warren_shared.observability.progress import through

CASES: Final = "10x100kB,100x100kB,300x100kB,1000x100kB"
SHORT: Final = "10x100kB,30x100kB"
TIMEOUT_S: Final = 600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    prepare()
    cases = given.cases or parse_cases(SHORT if given.short else CASES)
    rows = [
        row(fleet.measure(case, given.rounds + WARM_UP, TIMEOUT_S))
        for case in through(cases, "cases", len(cases))
    ]
    publish("scale", "A round of many clients, updates durable and confirmed", rows,
            folder=given.out)  # fmt: skip
    return 0


def row(found: fleet.FleetRun) -> Row:
    """What is told of a run."""
    done, clients = found.run, found.run.case.clients
    seconds = median(done.round_seconds)
    return Row(
        case=str(done.case),
        unit="s",
        ours=seconds,
        spread=(min(done.round_seconds), max(done.round_seconds)),
        peak_rss_bytes=done.coordinator_rss_bytes,
        model_bytes=done.case.size_bytes,
        more={
            "rounds": len(done.round_seconds),
            "ms_per_client": 1000 * seconds / clients,
            "coordinator_cpu_s_per_round": done.cpu.coordinator / done.cpu_rounds,
            "broker_cpu_s_per_round": done.cpu.broker / done.cpu_rounds,
            "clients_cpu_s_per_round": done.cpu.clients / done.cpu_rounds,
            "broker_up_s": found.broker_up_s,
        },
    )


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="few clients, for a few seconds")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--cases", type=parse_cases, help=f"such as {CASES} (default)")
    flags.add_argument("--rounds", type=int, default=5, help="rounds after the warm-up (5)")
    return flags


if __name__ == "__main__":
    sys.exit(main())
