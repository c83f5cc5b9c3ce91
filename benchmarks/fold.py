"""How fast updates are folded, against the memory's bandwidth and against Flower's ``aggregate``.

``python -m benchmarks.fold``: GB/s of K updates read. Ours and numpy's take turns on the same
arrays in one process; peak memory is that of a process which folds updates as they arrive.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.harness import fold_process
from benchmarks.harness.contestants import ROOT, ContestantFailed, Samples, contestants
from benchmarks.memory import fits
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row

FLOWER: Final = ROOT / ".venv-flower" / "bin" / "python"
PEERS: Final = ("aggregate", "aggregate_inplace")
SIZES: Final = (4_000_000, 40_000_000, 400_000_000)
SHORT: Final = (400_000, 4_000_000)
OURS: Final = {fold_process.WHOLE: "whole", fold_process.CHUNKS: "in chunks of 1 MiB"}
LIMITS: Final = {
    fold_process.MULTIPLY_ADD: "numpy multiply-add",
    fold_process.ADD: "numpy add, unweighted",
}

Measured = Mapping[str, Samples]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    sizes = given.sizes or (SHORT if given.short else SIZES)
    repetitions = given.repetitions or (2 if given.short else 9)
    rows: list[Row] = []
    for size_bytes in sizes:
        if fits((given.updates + 4) * size_bytes, f"{size_bytes / 1e6:g} MB"):
            rows += measure(given.updates, size_bytes, repetitions, with_peers=given.peers)
    title = f"Folding {given.updates} updates: GB/s of updates read"
    publish("fold", title, rows, folder=given.out)
    return 0


def measure(count: int, size_bytes: int, repetitions: int, *, with_peers: bool = True) -> list[Row]:
    """Rows of ``count`` updates of ``size_bytes`` each."""
    arguments = (str(count), str(size_bytes))
    # What we shall be compared with stands beside it in every turn, so that a slow moment of a
    # shared machine is a slow moment of both.
    turn = (
        fold_process.WHOLE,
        fold_process.MULTIPLY_ADD,
        fold_process.CHUNKS,
        fold_process.ADD,
        fold_process.UNCHECKED,
    )
    with contestants(["benchmarks.harness.fold_process", *arguments]) as timed:
        measured = timed.run(turn, repetitions)
    memory = {}
    for name in OURS:
        with contestants(["benchmarks.harness.fold_process", *arguments, "arriving"]) as arriving:
            memory[name] = arriving.run([name], 1)[name].peak_rss_bytes
    peers = _peers(count, size_bytes, repetitions) if with_peers else {}
    names = PEERS if with_peers else ("", "")
    return [
        _row(count, size_bytes, measured, memory, (name, limit), (peer, peers.get(peer)))
        for name in OURS
        for limit, peer in zip(LIMITS, names, strict=True)
    ]


def _peers(count: int, size_bytes: int, repetitions: int) -> Measured:
    """What Flower's functions take, as far as its environment and the memory are there."""
    found: dict[str, Samples] = {}
    for name in PEERS:
        program = ["benchmarks.peers.flower.fold", str(count), str(size_bytes), name]
        if not FLOWER.exists() or not fits((2 * count + 3) * size_bytes, f"Flower's {name}"):
            continue
        try:
            with contestants(program, python=str(FLOWER)) as peer:
                found |= peer.run([name], repetitions)
        except ContestantFailed as error:
            _say(f"Flower: {error}")
    return found


def _row(
    count: int,
    size_bytes: int,
    measured: Measured,
    memory: Mapping[str, int],
    against: tuple[str, str],
    peer: tuple[str, Samples | None],
) -> Row:
    name, limit = against
    peer_name, theirs = peer
    total = count * size_bytes
    more: dict[str, float | str] = {"repetitions": len(measured[name].seconds)}
    if name == fold_process.CHUNKS:
        more["gb_per_s_unchecked"] = measured[fold_process.UNCHECKED].rate(total)
    if theirs is not None:
        more["peer_rss_bytes"] = theirs.peak_rss_bytes
        more["peer_min"], more["peer_max"] = theirs.spread(total)
    more["limit_min"], more["limit_max"] = measured[limit].spread(total)
    return Row(
        case=f"{count} × {size_bytes / 1e6:g} MB, {OURS[name]}",
        unit="GB/s",
        ours=measured[name].rate(total),
        peer=theirs.rate(total) if theirs else None,
        limit=measured[limit].rate(total),
        peer_name=f"Flower {peer_name}" if peer_name else "",
        limit_name=LIMITS[limit],
        spread=measured[name].spread(total),
        peak_rss_bytes=memory[name],
        model_bytes=size_bytes,
        more=more,
    )


def _say(what: str) -> None:
    Console(stderr=True).print(what)


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="small sizes, for a few seconds")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--no-peers", dest="peers", action="store_false", help="without Flower")
    flags.add_argument("--updates", type=int, default=10, help="updates in a fold (10)")
    flags.add_argument("--sizes", type=int, nargs="+", help="bytes of an update, a multiple of 32")
    flags.add_argument("--repetitions", type=int, help="of every contestant (9)")
    return flags


if __name__ == "__main__":
    sys.exit(main())
