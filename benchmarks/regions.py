"""The same clients under one coordinator, and under two and four that fold beside each other.

``python -m benchmarks.regions``: a root and its regions (docs/scaling.md), each a vhost
of one private node, all on this machine; the clients are light (`benchmarks.clients.light_client`),
the coordinators real. A round lasts from one model that the root published to the next. What it
cannot show is what regions are for, brokers and coordinators on machines of their own; so it tells
whose processor time a round takes.
"""

import argparse
import contextlib
import io
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from benchmarks.harness.federation import TOLERANCE, WARM_UP, Costs, LedgerWrong, Stand, stand
from benchmarks.harness.matrix import Case, parse_cases
from benchmarks.harness.preparation import prepare
from benchmarks.harness.processes import Worker, WorkerFailed, cpu_s, peak_rss_bytes, python, worker
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row
from broker_config import cli
from broker_config.declaration.federation import Federation, Fleet
from coordinator_worker.storage import checkpoint

CASES: Final = "200x100kB,40x1MB,20x10MB"
SHORT: Final = "8x100kB"
FOLDERS: Final = (1, 2, 4)
TIMEOUT_S: Final = 600.0
LIGHT: Final = "light"


@dataclass
class Measured:
    """Of a number of folders: seconds of each round, and what ``cpu_rounds`` of them took."""

    round_seconds: list[float] = field(default_factory=list)
    cpu: list[Costs] = field(default_factory=list)
    cpu_rounds: int = 0
    peak_rss_bytes: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    prepare()
    cases = given.cases or parse_cases(SHORT if given.short else CASES)
    passes, rounds = (1, 3) if given.short else (given.passes, given.rounds)
    folders_of = FOLDERS[:2] if given.short else FOLDERS
    rows: list[Row] = []
    for case in cases:
        found = {folders: Measured() for folders in folders_of}
        for _ in range(passes):  # in turns, since the machine is not the same for long
            for folders, measured in found.items():
                measure(case, folders, rounds + WARM_UP, measured)
        rows += [_row(case, folders, found[1], one) for folders, one in found.items()]
    publish("regions", "A round of the same clients under 1, 2 and 4 folders on one machine", rows,
            folder=given.out)  # fmt: skip
    return 0


def measure(case: Case, folders: int, rounds: int, into: Measured) -> None:
    """Run ``rounds`` rounds on a broker of their own; the first ones are warm-up.

    Raises:
        WorkerFailed: somebody failed, or it took too long.
        LedgerWrong: not every update counted once.
    """
    share = case.clients // folders
    fleets = [Fleet(f"{LIGHT}-{number}", share) for number in range(folders)]
    regions = tuple(f"region-{number}" for number in range(folders)) if folders > 1 else ()
    federation = Federation(
        "root", regions, () if regions else tuple(fleets), model_bytes=case.size_bytes
    )
    with stand(federation) as on, ExitStack() as stack:
        np.savez(on.folder / "initial.npz", np.zeros(case.size_bytes // 4, np.float32))
        homes = [
            _region(on, name, fleet, case) for name, fleet in zip(regions, fleets, strict=False)
        ]
        clients = [
            stack.enter_context(_light(on, home, fleet, case))
            for home, fleet in zip(homes or [on.broker.home], fleets, strict=True)
        ]
        inner = [
            stack.enter_context(_region_coordinator(on, name, home, share))
            for name, home in zip(regions, homes, strict=True)
        ]
        _run(on, case, inner, clients, rounds, into)


def _run(
    on: Stand,
    case: Case,
    regions: Sequence[Worker],
    clients: Sequence[Worker],
    rounds: int,
    into: Measured,
) -> None:
    quorum = len(regions) or case.clients
    goal = ("--quorum", str(quorum), "--rounds", str(rounds), *_initial(on))
    folder = on.folder / "checkpoint"
    times: dict[int, float] = {}
    costs: dict[int, Costs] = {}
    with worker("coordinator-worker", on.bundle("coordinator"), on.folder / "root.log", *goal,
                "--checkpoint-dir", str(folder), followed=True) as root:  # fmt: skip
        for record in root.records(TIMEOUT_S):
            if record.get("action") == "model_published":
                version = int(record["version"])
                times[version] = float(record["time"])
                costs[version] = _costs(on, [root, *regions], clients)
                peaks = (peak_rss_bytes(one.process.pid) for one in [root, *regions])
                into.peak_rss_bytes = max(into.peak_rss_bytes, *peaks)
    for one in (*regions, *clients):
        one.done(30.0)
    _check(folder, case, len(regions) or 1, rounds)
    into.round_seconds += [times[v] - times[v - 1] for v in range(WARM_UP + 1, rounds + 1)]
    into.cpu.append(costs[rounds - 1] - costs[WARM_UP])
    into.cpu_rounds += rounds - 1 - WARM_UP


def _costs(on: Stand, coordinators: Sequence[Worker], clients: Sequence[Worker]) -> Costs:
    return Costs(
        sum(cpu_s(one.process.pid) for one in coordinators),
        sum(cpu_s(one.process.pid) for one in clients),
        cpu_s(on.broker.pid),
    )


def _check(folder: Path, case: Case, folders: int, rounds: int) -> None:
    """Each index is counted up by one client of each folder, once a round."""
    state = checkpoint.load(folder)
    if state is None or state.version != rounds:
        raise WorkerFailed(f"the run ended at {state and state.version}, not at {rounds}")
    share, (counts,) = case.clients // folders, state.weights
    expected = rounds * folders / case.clients
    for index in range(share):
        if not math.isclose(counts[index], expected, rel_tol=TOLERANCE * rounds):
            raise LedgerWrong(f"client {index} counts {counts[index]}, not {expected}")
    if counts[share:].any():
        raise LedgerWrong("somebody counted at an index that is nobody's")


def _region(on: Stand, name: str, fleet: Fleet, case: Case) -> Path:
    """A federation beside the root's on its broker, as an operator makes it; its home."""
    home = on.folder / name
    told = ("--fleet", f"{fleet.name}:{fleet.size}", "--model-bytes", str(case.size_bytes))
    command = ("apply", "--home", home, "--on", on.broker.home, "--federation", name, *told)
    with contextlib.redirect_stdout(io.StringIO()):
        if cli.main(list(map(str, command))):
            raise WorkerFailed(f"no federation {name}")
    return home


def _region_coordinator(on: Stand, name: str, home: Path, quorum: int) -> Worker:
    told = ("--quorum", str(quorum), "--parent", str(on.bundle(name)), *_initial(on))
    folder = ("--checkpoint-dir", str(home / "checkpoint"))
    bundle = home / "bundles" / "coordinator.env"
    return worker("coordinator-worker", bundle, on.folder / f"{name}.log", *told, *folder)


def _initial(on: Stand) -> tuple[str, str]:
    return ("--initial-model", str(on.folder / "initial.npz"))  # light clients have no weights


@contextmanager
def _light(on: Stand, home: Path, fleet: Fleet, case: Case) -> Iterator[Worker]:
    bundle = home / "bundles" / f"{fleet.name}.env"
    told = (str(bundle), fleet.name, "0", str(fleet.size), str(case.size_bytes))
    with python(
        "benchmarks.clients.light_client", on.folder / f"{fleet.name}.log", *told
    ) as playing:
        yield playing


def _row(case: Case, folders: int, one: Measured, found: Measured) -> Row:
    seconds = median(found.round_seconds)
    spent = {side: sum(getattr(cost, side) for cost in found.cpu) / found.cpu_rounds
             for side in ("broker", "coordinator", "clients")}  # fmt: skip
    named = {"coordinator": "coordinators"}
    return Row(
        case=f"{case}, {folders} folder{'s' if folders > 1 else ''}",
        unit="s",
        ours=seconds,
        limit=median(one.round_seconds) if folders > 1 else None,
        limit_name="1 folder" if folders > 1 else "",
        spread=(min(found.round_seconds), max(found.round_seconds)),
        peak_rss_bytes=found.peak_rss_bytes,
        model_bytes=case.size_bytes,
        more={
            "rounds": len(found.round_seconds),
            "updates_a_second": case.clients / seconds,
            **{f"{named.get(side, side)}_cpu_s_per_round": cost for side, cost in spent.items()},
            "busy_cores": sum(spent.values()) / seconds,
        },
    )


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="few clients, for a few seconds")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--cases", type=parse_cases, help=f"such as {CASES} (default)")
    flags.add_argument("--rounds", type=int, default=5, help="rounds after the warm-up (5)")
    flags.add_argument("--passes", type=int, default=3, help="times that all take their turn (3)")
    return flags


if __name__ == "__main__":
    sys.exit(main())
