"""What each algorithm costs the coordinator: GB/s of updates read, and memory.

``python -m benchmarks.aggregation``: a round of K updates, from the first chunk to the new model,
with each aggregator and each server optimizer; the means and optimizers take turns.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.harness.aggregation_process import MEANS, OPTIMIZERS, ROBUST
from benchmarks.harness.contestants import Samples, contestants
from benchmarks.memory import fits
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row

COUNT: Final = 10
SIZE_BYTES, SHORT_BYTES = 40_000_000, 12_000_000
FEDAVG: Final = "mean"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    size_bytes = SHORT_BYTES if given.short else SIZE_BYTES
    repetitions = given.repetitions or (1 if given.short else 5)
    rows = measure(size_bytes, repetitions) if fits(20 * size_bytes, "the updates") else []
    title = f"A round's arithmetic, {COUNT} updates of {size_bytes / 1e6:g} MB: GB/s of updates"
    publish("aggregation", title, rows, folder=given.out)
    return 0


def measure(size_bytes: int, repetitions: int) -> list[Row]:
    """A row for each algorithm; its memory is that of a process that runs nothing else."""
    names = (*MEANS, *OPTIMIZERS, *ROBUST)
    program = ["benchmarks.harness.aggregation_process", str(COUNT), str(size_bytes)]
    samples: dict[str, Samples] = {}
    # Apart, since whoever comes after a rule that sorts finds nothing of his own in the cache.
    for group in ((*MEANS, *OPTIMIZERS), ROBUST):
        with contestants(program) as together:
            samples |= together.run(group, repetitions)
    memory = {}
    for name in names:
        with contestants(program) as alone:
            memory[name] = alone.run([name], 1)[name].peak_rss_bytes
    total = COUNT * size_bytes
    return [
        Row(
            case=name,
            unit="GB/s",
            ours=samples[name].rate(total),
            spread=samples[name].spread(total),
            limit=samples[FEDAVG].rate(total),
            limit_name="FedAvg",
            peak_rss_bytes=memory[name],
            model_bytes=size_bytes,
            more={"repetitions": repetitions},
        )
        for name in names
    ]


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="small updates, once")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--repetitions", type=int, help="of every algorithm, in turn (5)")
    return flags


if __name__ == "__main__":
    sys.exit(main())
