"""Whether anything grows: memory and descriptors of every process, and the time that a round takes.

``python -m benchmarks.endurance --rounds 2000``: a day of rounds of 43 s, at full speed. Four real
``client-worker`` processes, a coordinator and a broker; looked at twenty times on the way.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console

from benchmarks.harness.federation import WARM_UP, Stand, check_ledger, client_workers, names, stand
from benchmarks.harness.matrix import Case
from benchmarks.harness.preparation import prepare
from benchmarks.harness.processes import Worker, WorkerFailed, worker
from benchmarks.reporting.curves import Curves
from benchmarks.reporting.growth import Growth, Samples
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row
from broker_config.declaration.federation import Federation
from coordinator_worker.storage import checkpoint

CASE: Final = Case(4, 100_000)
ROUNDS: Final = 2000
SAMPLES: Final = 20
# Workers have made their buffers after a tenth of the rounds. The broker keeps a log of 128 MiB in
# memory, begins a new one after some 340 rounds, and takes what it needs a log at a time: where it
# is after half of the rounds it may still be one short of where it stays.
SETTLED: Final = SAMPLES // 10 - 1  # place of a sample
BROKER_SETTLED: Final = SAMPLES // 2 - 1
TOLERANCE_MB: Final = 2.0  # of a worker's memory, if that is more than ...
TOLERANCE_SHARE: Final = 0.05  # ... this share of it
BROKER_MB: Final = 128 * 1.048576
BROKER_FILES: Final = 4  # those of a queue's log come and go
SLOWER: Final = 0.2  # share by which a shared machine's rounds differ anyway
TIMEOUT_S: Final = 900.0
BROKER: Final = "broker"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    prepare()
    rounds = given.rounds or (100 if given.short else ROUNDS)
    federation = Federation(clients=names(CASE), fleets=(), model_bytes=CASE.size_bytes)
    with stand(federation) as on, client_workers(on, CASE) as clients:
        samples = measure(on, clients, rounds)
    found = rows(samples)
    title = f"{rounds} rounds of {CASE}: what grows"
    publish("endurance", title, found, folder=given.out, curves=curves(samples))
    growing = [row.case for row in found if row.more["flat"] != "yes"]
    Console().print(f"growing: {', '.join(growing)}" if growing else "all of it is flat")
    return 0


def measure(on: Stand, clients: Sequence[Worker], rounds: int) -> Samples:
    """What the processes hold at every twentieth of ``rounds``, and when each round was over.

    The run has no goal: whoever knew that it was over would be closing what we are about to count.

    Raises:
        WorkerFailed: somebody failed, or it took longer than ``TIMEOUT_S``.
        LedgerWrong: not every update counted once.
    """
    samples, every = Samples(), rounds // SAMPLES
    folder, log = on.folder / "checkpoint", on.folder / "coordinator.log"
    told = ("--quorum", str(CASE.clients), "--checkpoint-dir", str(folder))
    bundle = on.bundle("coordinator")
    with worker("coordinator-worker", bundle, log, *told, followed=True) as coordinator:
        workers = {"coordinator": coordinator, **_named(clients)}
        pids = {name: each.process.pid for name, each in workers.items()} | {BROKER: on.broker.pid}
        for record in coordinator.records(TIMEOUT_S):
            if record.get("action") != "model_published":
                continue
            version = int(record["version"])
            samples.times[version] = float(record["time"])
            samples.glance(pids)
            if version and version % every == 0:
                samples.take(version, pids)
            if len(samples.versions) == SAMPLES:
                break
        for each in workers.values():
            each.check()
    state = checkpoint.load(folder)
    if state is None or len(samples.versions) < SAMPLES:
        raise WorkerFailed("the run ended before all was looked at")
    check_ledger(folder, CASE, state.version)
    return samples


def _named(clients: Sequence[Worker]) -> dict[str, Worker]:
    return {f"client {name}": each for name, each in zip(names(CASE), clients, strict=True)}


def rows(samples: Samples) -> list[Row]:
    """Memory and descriptors of each process, then a round's time: the last beside the settled."""
    found = []
    for name, values in samples.rss.items():
        megabytes = [value / 1e6 for value in values]
        allowed = max(TOLERANCE_MB, TOLERANCE_SHARE * megabytes[_settled(name)])
        tolerance = BROKER_MB if name == BROKER else allowed
        found.append(_row(f"{name}: memory", "MB", samples, megabytes, tolerance))
    for name, counts in samples.open_files.items():
        tolerance = BROKER_FILES if name == BROKER else 0
        found.append(_row(f"{name}: descriptors", "open", samples, counts, tolerance))
    return [*found, _round_row(samples)]


def _row(case: str, unit: str, samples: Samples, values: Sequence[float], tolerance: float) -> Row:
    first = _settled(case.partition(":")[0])
    growth = Growth(samples.versions[first:], values[first:], tolerance)
    return Row(
        case=case,
        unit=unit,
        ours=growth.values[-1],
        limit=growth.values[0],
        limit_name=f"round {growth.rounds[0]}'s",
        spread=(min(growth.values), max(growth.values)),
        more={
            "flat": "yes" if growth.is_flat else "no",
            "growth": growth.total,
            "tolerance": tolerance,
            "per_1000_rounds": growth.per_1000_rounds,
        },
    )


def _round_row(samples: Samples) -> Row:
    """The median of the last windows beside that of the first after all had settled."""
    windows, tenth = samples.windows(), SETTLED + 1
    first, last = median(windows[tenth : 2 * tenth]), median(windows[-tenth:])
    growth = Growth(samples.versions[tenth:], windows[tenth:], SLOWER * first)
    begin, end = samples.versions[tenth - 1] + 1, samples.versions[2 * tenth - 1]
    return Row(
        case="a round",
        unit="ms",
        ours=last,
        limit=first,
        limit_name=f"rounds {begin} to {end}'s",
        spread=(min(growth.values), max(growth.values)),
        more={
            "flat": "yes" if last - first <= growth.tolerance else "no",
            "growth": last - first,
            "tolerance": growth.tolerance,
            "per_1000_rounds": growth.per_1000_rounds,
        },
    )


def curves(samples: Samples) -> Curves:
    """All of it over the rounds."""
    megabytes = {name: [value / 1e6 for value in values] for name, values in samples.rss.items()}
    broker = {BROKER: megabytes.pop(BROKER)}
    panels: dict[str, Mapping[str, Sequence[float]]] = {
        "workers' resident memory, MB": megabytes,
        "broker's resident memory, MB": broker,
        "open files and sockets": samples.open_files,
        "a round, ms (median since the look before)": {"round": samples.windows()},
    }
    return Curves("round", samples.versions, panels)


def _settled(name: str) -> int:
    return BROKER_SETTLED if name == BROKER else SETTLED


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < SAMPLES * (WARM_UP + 1):
        raise argparse.ArgumentTypeError(f"{text}: at least {SAMPLES * (WARM_UP + 1)}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="100 rounds")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--rounds", type=_rounds, help=f"how many ({ROUNDS})")
    return flags


if __name__ == "__main__":
    sys.exit(main())
