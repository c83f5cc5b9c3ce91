"""A round's seconds beyond training, beside Flower's and beside what the machine can do at best.

``python -m benchmarks.round``: N real ``client-worker`` processes and a real ``coordinator-worker``
over a private node; the task trains nothing (`benchmarks.tasks`). A round lasts from one published
model to the next. ``--cases 2x4MB,10x40MB`` chooses cases.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console

from benchmarks import idle, limit, memory
from benchmarks.harness.federation import WARM_UP, Run, client_workers, names, run, stand
from benchmarks.harness.matrix import Case, parse_cases
from benchmarks.harness.preparation import prepare
from benchmarks.peers import rows as peers
from benchmarks.reporting.report import RESULTS, measured_again, publish
from benchmarks.reporting.rows import Row
from broker_config.declaration.federation import Federation

CASES: Final = "2x1MB,2x4MB,2x40MB,2x400MB,10x1MB,10x4MB,10x40MB,50x1MB,50x40MB"
SHORT: Final = "3x1MB"
PROCESS_BYTES: Final = 80_000_000  # of a client without its model


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    prepare()
    cases = given.cases or parse_cases(SHORT if given.short else CASES)
    rows: list[Row] = []
    for case in cases:
        if memory.fits(case.clients * (PROCESS_BYTES + 6 * case.size_bytes), str(case)):
            rows += measure(case, 3 if given.short else _rounds(case), with_peers=given.peers)
            _say(rows[-1])
    if given.all:
        rows += idle.rows(seconds=2.0 if given.short else 10.0)
        rows += memory.rows((2,) if given.short else memory.CLIENTS)
    if given.cases:
        rows = measured_again("round", rows, folder=given.out)
    publish("round", "A round beyond training, updates durable and confirmed", rows,
            folder=given.out)  # fmt: skip
    return 0


def measure(case: Case, rounds: int, *, with_peers: bool = True) -> list[Row]:
    """Rows of a case: one for each peer, and one against plain TCP."""
    # The limit is taken before and after, so that a machine that slows down slows down both.
    limits = limit.through_broker(case, -(-rounds // 2))
    ours = _ours(case, rounds)
    limits += limit.through_broker(case, -(-rounds // 2))
    loopback = limit.over_loopback(case, rounds)
    others = peers.measure(case) if with_peers else [peers.Peer("")]
    rows = [_row(ours, (limit.BROKER_LIMIT, limits), peer) for peer in others]
    return [*rows, _row(ours, (limit.LOOPBACK_LIMIT, loopback), peers.Peer(""))]


def _ours(case: Case, rounds: int) -> Run:
    federation = Federation(clients=names(case), fleets=(), model_bytes=case.size_bytes)
    rounds += WARM_UP
    timeout_s = 120 + 2 * case.clients + rounds * case.bytes_a_round / 2e7
    with stand(federation) as on, client_workers(on, case) as clients:
        return run(on, case, clients, rounds, timeout_s)


def _row(ours: Run, limits: tuple[str, Sequence[float]], peer: peers.Peer) -> Row:
    limit_name, limit_seconds = limits
    more: dict[str, float | str] = {
        "rounds": len(ours.round_seconds),
        "bytes_a_round": ours.case.bytes_a_round,
        **ours.per_gb(),
        "limit_min": min(limit_seconds),
        "limit_max": max(limit_seconds),
    }
    if peer.round_seconds:
        more |= {"peer_rounds": len(peer.round_seconds), "peer_rss_bytes": peer.server_rss_bytes}
        more |= {"peer_min": min(peer.round_seconds), "peer_max": max(peer.round_seconds)}
    return Row(
        case=str(ours.case),
        unit="s",
        ours=median(ours.round_seconds),
        peer=median(peer.round_seconds) if peer.round_seconds else None,
        peer_name=peer.name,
        limit=median(limit_seconds),
        limit_name=limit_name,
        spread=(min(ours.round_seconds), max(ours.round_seconds)),
        peak_rss_bytes=ours.coordinator_rss_bytes,
        model_bytes=ours.case.size_bytes,
        more=more,
    )


def _rounds(case: Case) -> int:
    """As many as pass 8 GB, but 5 to 20."""
    return max(5, min(20, 8_000_000_000 // case.bytes_a_round))


def _say(row: Row) -> None:
    Console(stderr=True).print(f"{row.case}: {row.ours:.3f} s")


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="small cases, for a few seconds")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--no-peers", dest="peers", action="store_false", help="without Flower")
    flags.add_argument(
        "--cases",
        type=parse_cases,
        help=f"such as {CASES} (default); chosen ones replace theirs in the last results",
    )
    flags.add_argument("--cases-only", dest="all", action="store_false",
                       help="without the idle federation and the memory sweep")  # fmt: skip
    return flags


if __name__ == "__main__":
    sys.exit(main())
