"""What protection costs: a round's seconds with signed models, encrypted updates, TLS, and without.

``python -m benchmarks.protection``: the federation of `benchmarks.round`, once for each way in
turn, so that all see the machine's slow moments.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console

from benchmarks import limit
from benchmarks.harness.federation import WARM_UP, Run, Stand, client_workers, names, run, stand
from benchmarks.harness.matrix import Case, parse_cases
from benchmarks.harness.preparation import prepare
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row
from broker_config.declaration.federation import Federation

CASES: Final = "2x4MB,10x4MB,4x40MB"
SIGNATURES: Final = ("WARREN_SIGNING_KEYS", "WARREN_VERIFY_KEYS")
ENCRYPTION: Final = ("WARREN_ENCRYPT_KEY",)


@dataclass(frozen=True)
class Way:
    """A way to run a federation, by what its bundles lack, and on which of two brokers.

    ``more`` are further arguments of its coordinator.
    """

    name: str
    without: tuple[str, ...]
    tls: str = ""
    more: tuple[str, ...] = ()


PLAIN: Final = Way("plain", (*SIGNATURES, *ENCRYPTION))
WAYS: Final = (
    PLAIN,
    Way("models signed", ENCRYPTION),
    Way("models signed, updates encrypted", ()),
    Way("models signed, TLS", ENCRYPTION, "tls"),
    Way("all of it", (), "tls"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = parser(__doc__, CASES).parse_args(argv)
    prepare()
    short: bool = given.short
    cases = given.cases or parse_cases("2x4MB" if short else CASES)
    rows: list[Row] = []
    for case in cases:
        rows += rows_of(case, measure(case, WAYS, 1 if short else 7, 4 if short else 12))
        rows.append(floor_of(case, 2 if short else 15))
    publish("protection", "A round with and without protection", rows, folder=given.out)
    return 0


def measure(
    case: Case, ways: Sequence[Way], repetitions: int, rounds: int, timeout_s: float = 300.0
) -> Mapping[Way, list[Run]]:
    """Every way in turn, ``repetitions`` times; a run may take ``timeout_s``."""
    runs: dict[Way, list[Run]] = {way: [] for way in ways}
    federation = Federation(
        clients=names(case), fleets=(), model_bytes=case.size_bytes, encrypt_updates=True
    )
    with ExitStack() as stack:
        on = {
            tls: stack.enter_context(stand(federation, tls))
            for tls in dict.fromkeys(way.tls for way in ways)
        }
        for _ in range(repetitions):
            for way in ways:
                place = replace(on[way.tls], without=way.without)
                runs[way].append(_run(place, case, rounds, timeout_s, way.more))
            told = ", ".join(f"{way.name} {_seconds(runs[way][-1]):.3f} s" for way in ways)
            Console(stderr=True).print(f"{case}: {told}")
    return runs


def _run(on: Stand, case: Case, rounds: int, timeout_s: float, more: Sequence[str]) -> Run:
    for name in ("a.checkpoint", "b.checkpoint"):
        (on.folder / "checkpoint" / name).unlink(missing_ok=True)
    with client_workers(on, case) as clients:
        return run(on, case, clients, rounds + WARM_UP, timeout_s, *more)


def _seconds(one: Run) -> float:
    return median(one.round_seconds)


def rows_of(case: Case, runs: Mapping[Way, list[Run]]) -> list[Row]:
    """A row for each way, beside the first."""
    first = next(iter(runs))
    plain = [_seconds(one) for one in runs[first]]
    return [
        Row(
            case=f"{case}, {way.name}",
            unit="s",
            ours=median(map(_seconds, runs[way])),
            limit=median(plain),
            limit_name=first.name,
            spread=(min(map(_seconds, runs[way])), max(map(_seconds, runs[way]))),
            peak_rss_bytes=max(one.coordinator_rss_bytes for one in runs[way]),
            model_bytes=case.size_bytes,
            more=_more(runs[way], plain),
        )
        for way in runs
    ]


def floor_of(case: Case, rounds: int) -> Row:
    """What TLS costs the broker and the barest client: below it no client of this broker gets."""
    plain, tls = limit.through_broker(case, rounds), limit.through_broker(case, rounds, "tls")
    return Row(
        case=f"{case}, {limit.BROKER_LIMIT} over TLS",
        unit="s",
        ours=median(tls),
        limit=median(plain),
        limit_name=f"{limit.BROKER_LIMIT}, plain",
        spread=(min(tls), max(tls)),
        model_bytes=case.size_bytes,
        more={"rounds": len(tls)},
    )


def _more(runs: Sequence[Run], plain: Sequence[float]) -> Mapping[str, float | str]:
    # Of runs that followed each other: the machine drifts more than these costs are.
    ratios = [_seconds(one) / beside for one, beside in zip(runs, plain, strict=True)]
    per_gb = [one.per_gb() for one in runs]
    return {
        "runs": len(runs),
        "rounds_each": len(runs[0].round_seconds),
        "ratio_to_plain_median": median(ratios),
        "ratio_to_plain_min": min(ratios),
        "ratio_to_plain_max": max(ratios),
        **{side: median(one[side] for one in per_gb) for side in per_gb[0]},
    }


def parser(about: str | None, cases: str) -> argparse.ArgumentParser:
    """Flags of a benchmark of ways; ``cases`` are measured unless told."""
    flags = argparse.ArgumentParser(description=about)
    flags.add_argument("--short", action="store_true", help="one small case, once")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--cases", type=parse_cases, help=f"such as {cases} (default)")
    return flags


if __name__ == "__main__":
    sys.exit(main())
