"""What masks cost: a round's seconds with ``--secure`` and a keeper, beside the sealed round.

``python -m benchmarks.secure``: the federation of `benchmarks.protection`, models signed and
updates encrypted, with masks and without in turn. A masked round has one message more (the seed),
one more question (the keeper's), and an answer as large as the model. With ``--keeper`` it is the
keeper's memory, with few and many clients.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from rich.console import Console

from benchmarks.harness import masks
from benchmarks.harness.federation import WARM_UP, Run, Stand, client_workers, names, run, stand
from benchmarks.harness.matrix import Case, parse_cases
from benchmarks.harness.preparation import prepare
from benchmarks.harness.processes import cpu_s, peak_rss_bytes, worker
from benchmarks.protection import Way, parser, rows_of
from benchmarks.reporting.report import publish
from benchmarks.reporting.rows import Row
from broker_config.declaration.federation import Federation
from keeper_worker import keys

if TYPE_CHECKING:
    from benchmarks.harness.processes import Worker

CASES: Final = "2x4MB,10x4MB,10x40MB"
CLIENTS: Final = (2, 20, 200)  # of the keeper's memory
SIZE: Final = 4_000_000
SECURE: Final = ("--aggregator", "uniform", "--secure", "clip=2,least=2")
SEALED: Final = Way("sealed", ("WARREN_KEEPER",), more=("--aggregator", "uniform"))
MASKED: Final = Way("masked", (), more=SECURE)
TIMEOUT_S: Final = 300.0
CLIENT_MS: Final = 0.8
SERVERS_S: Final = 0.3
WIRE, WIRE_OF_16 = 1.003, 0.51


@dataclass(frozen=True)
class _Kept:
    stand: Stand
    keeper: "Worker"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    flags = parser(__doc__, CASES)
    flags.add_argument("--keeper", action="store_true", help="the keeper's memory alone")
    given = flags.parse_args(argv)
    prepare()
    short: bool = given.short
    cases = given.cases or parse_cases("2x4MB" if short else CASES)
    rows: list[Row] = [] if given.keeper else _in_process(short=short)
    for case in () if given.keeper else cases:
        rows += _rounds(case, 1 if short else 5, 4 if short else 12)
    for clients in () if short else CLIENTS:
        rows.append(_memory(Case(clients, SIZE)))
    publish("secure", "A round with and without masks", rows, folder=given.out)
    return 0


def _in_process(*, short: bool) -> list[Row]:
    """What each side computes, and what travels, beside what we allow ourselves."""
    size = 100_000 if short else 10_000_000
    client, both = masks.client_ms_per_mb(size), masks.servers_s(100_000, 20 if short else 500)
    rows = [
        _row("client, beyond an update in clear, for each MB", "ms", client, CLIENT_MS),
        _row("coordinator and keeper, 500 updates of 100,000", "s", both, SERVERS_S),
    ]
    wire = "bytes on the wire, ring of"
    rows.append(_row(f"{wire} 32 bits", "x float32", [masks.wire_ratio(size, 32)], WIRE))
    rows.append(_row(f"{wire} 16 bits", "x float32", [masks.wire_ratio(size, 16)], WIRE_OF_16))
    return rows


def _row(case: str, unit: str, found: Sequence[float], allowed: float) -> Row:
    spread = (min(found), max(found))
    ours = median(found)
    return Row(case=case, unit=unit, ours=ours, limit=allowed, limit_name="goal", spread=spread)


def _rounds(case: Case, repetitions: int, rounds: int) -> list[Row]:
    ways = (SEALED, MASKED)
    runs: dict[Way, list[Run]] = {way: [] for way in ways}
    with _stand(case) as kept:
        before = cpu_s(kept.keeper.process.pid)
        for _ in range(repetitions):
            for way in ways:
                runs[way].append(_run(kept.stand, case, rounds, way))
            told = ", ".join(f"{w.name} {median(runs[w][-1].round_seconds):.3f} s" for w in ways)
            Console(stderr=True).print(f"{case}: {told}")
        spent = cpu_s(kept.keeper.process.pid) - before
        peak = peak_rss_bytes(kept.keeper.process.pid)
    sums = repetitions * (rounds + WARM_UP)
    told_of_keeper = {
        "keeper_cpu_s_a_sum": spent / sums,
        "keeper_peak_rss_mb": peak / 1e6,
    }
    return [
        replace(row, more={**row.more, **told_of_keeper}) if row.case.endswith(MASKED.name) else row
        for row in rows_of(case, runs)
    ]


def _memory(case: Case) -> Row:
    with _stand(case) as kept:
        _run(kept.stand, case, 3, MASKED)
        peak = peak_rss_bytes(kept.keeper.process.pid)
    allowed = 2 * case.size_bytes + 60_000_000
    return Row(
        case=f"keeper's peak memory, {case}",
        unit="MB",
        ours=peak / 1e6,
        limit=allowed / 1e6,
        limit_name="2 × model + 60 MB",
        peak_rss_bytes=peak,
        model_bytes=case.size_bytes,
        more={"rounds": 3 + WARM_UP},
    )


@contextmanager
def _stand(case: Case) -> Iterator[_Kept]:
    """A broker, and a keeper at it."""
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="warren-bench-"))
        made, _ = keys.make(Path(name))
        on = stack.enter_context(
            stand(
                Federation(
                    clients=names(case), fleets=(), model_bytes=case.size_bytes,
                    encrypt_updates=True, keeper=made.public_line,
                )
            )
        )  # fmt: skip
        told = ("--state-dir", name, "--least", "2")
        log = on.folder / "keeper.log"
        keeper = worker("keeper-worker", on.bundle("keeper"), log, *told)
        yield _Kept(on, stack.enter_context(keeper))


def _run(on: Stand, case: Case, rounds: int, way: Way) -> Run:
    place = replace(on, without=way.without)
    for name in ("a.checkpoint", "b.checkpoint"):
        (on.folder / "checkpoint" / name).unlink(missing_ok=True)
    with client_workers(place, case) as clients:
        return run(place, case, clients, rounds + WARM_UP, TIMEOUT_S, *way.more)


if __name__ == "__main__":
    sys.exit(main())
