"""The command line of a hospital example, and its course from broker to report."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from coordinator_worker.text.formatting import size
from warren_examples.stage.baselines import Comparison
from warren_examples.stage.federation import Run, Stage
from warren_examples.stage.html import write_html
from warren_examples.stage.report import Figures, seen, summary, table, write_json
from warren_examples.stage.study import Study
from warren_examples.stage.view import View
from warren_shared.errors import BrokerConfigError, ConfigError, WarrenError
from warren_shared.service import lifecycle

Alone = dict[int, dict[str, dict[str, dict[str, float]]]]


def parser(study: Study, out: str, program: str | None = None) -> argparse.ArgumentParser:
    """Flags that every hospital example has; ``program`` is what they follow."""
    flags = argparse.ArgumentParser(
        prog=program, description=f"{study.title}. {study.description}", allow_abbrev=False
    )
    flags.add_argument("--out", type=Path, default=Path(out), help=f"where to write ({out})")
    flags.add_argument(
        "--seeds", type=_count, default=5, help="how many splits to average over (5)"
    )
    flags.add_argument("--rounds", type=_count, default=study.rounds,
                       help=f"rounds of federated training ({study.rounds})")  # fmt: skip
    flags.add_argument("--keep-broker", action="store_true",
                       help="leave the broker running, to look at the management UI")  # fmt: skip
    flags.add_argument("--tls", action="store_true",
                       help="mutual TLS, and updates that the broker cannot read")  # fmt: skip
    flags.add_argument("--secure", action="store_true",
                       help="masked updates: with a keeper, nobody sees one")  # fmt: skip
    return flags


def main(study: Study, out: str, argv: Sequence[str] | None = None) -> int:
    """Run ``study`` as the command line says; return the exit code."""
    given = parser(study, out).parse_args(argv)
    return lifecycle.run("demo", lambda: run(study, given))


def run(study: Study, given: argparse.Namespace) -> None:
    """Run ``study`` with what its `parser` read; leave nothing running, whatever ends it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    play(replace(study, rounds=given.rounds), given)


def main_with_data(
    make: Callable[[str], Study],
    files: Sequence[str],
    where: str,
    *,
    out: str,
    argv: Sequence[str],
) -> int:
    """``main`` for a study of the data in ``--data FOLDER``, which must hold ``files``."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--data", default="")
    given, rest = flags.parse_known_args(argv)
    folder = Path(given.data).resolve()
    missing = [folder / name for name in files if not (folder / name).is_file()]
    if missing and "--help" not in rest:
        what = f"there is no {missing[0]}" if given.data else "--data FOLDER is needed"
        print(f"{what}: {where}", file=sys.stderr)
        return 2
    return main(make(str(folder)), out=out, argv=rest)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def play(study: Study, given: argparse.Namespace) -> None:
    """Federated training for each seed over a real broker; the baselines beside it."""
    began = time.monotonic()
    seeds = range(given.seeds)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    try:
        (given.out / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {given.out} cannot be written to: {error.strerror}") from None
    try:
        with (
            View(study.title) as view,
            Stage(study, given.out, view, tls=given.tls, secure=given.secure) as stage,
        ):
            stage.keep_broker = given.keep_broker
            runs, alone, comparison = _train(study, stage, view, seeds)
    except BrokerConfigError as error:
        raise WarrenError(str(error)) from None
    federated = {
        seed: comparison.judge(run.state.weights, study.sites(seed)) for seed, run in runs.items()
    }
    figures = Figures(study, federated, alone)
    facts = _facts(runs, study, time.monotonic() - began, stage.version)
    facts["encrypted"], facts["masked"] = given.tls, given.secure
    write_json(given.out / "report.json", figures, facts)
    curves = [list(rounds.values()) for rounds in view.history]
    write_html(given.out / "report.html", figures, facts, curves)
    console = Console()
    console.print(table(figures))
    if given.secure:
        console.print(seen(figures, facts))
    console.print(summary(figures, facts))
    console.print(f"Written: {given.out / 'report.json'} and {given.out / 'report.html'}")
    if given.keep_broker:
        console.print(_where(stage))


def _train(
    study: Study, stage: Stage, view: View, seeds: Sequence[int]
) -> tuple[dict[int, Run], Alone, Comparison]:
    """The federated runs, and meanwhile on another thread what they are compared with."""
    with ThreadPoolExecutor(1) as beside:
        view.say(f"{_where(stage)}; clients are loading TensorFlow")
        comparison = Comparison(study)
        pending: dict[int, Future[Any]] = {}
        try:
            pending = {seed: beside.submit(comparison.alone, seed) for seed in seeds}
            stage.wait_for_clients()
            view.say(_where(stage))
            runs = {seed: stage.run(seed) for seed in seeds}
            view.say("training each site alone, and on all data pooled, for comparison")
            alone = {seed: future.result() for seed, future in pending.items()}
            return runs, alone, comparison
        finally:
            for future in pending.values():
                future.cancel()
            comparison.stop()


def _where(stage: Stage) -> str:
    address = stage.node.address.management
    return f"management UI: {address}, login in {stage.node.home}/bundles/watcher.env"


def _facts(runs: dict[int, Run], study: Study, seconds: float, version: str) -> dict[str, Any]:
    boards = [run.board for run in runs.values()]
    return {
        "rounds": study.rounds,
        "clients": len(study.names),
        "seeds": len(runs),
        "updates_folded": sum(board.view.updates for board in boards),
        "bytes_up": sum(board.view.bytes_up for board in boards),
        "bytes_down": sum(board.view.bytes_down for board in boards),
        "seconds": seconds,
        "broker": {"version": version},
        "coordinator": {
            "rss_bytes": max(run.coordinator_rss_bytes for run in runs.values()),
            "seconds_to_consuming": max(run.seconds_to_consuming for run in runs.values()),
        },
        "traffic": f"up {size(sum(b.view.bytes_up for b in boards))},"
        f" down {size(sum(b.view.bytes_down for b in boards))}",
    }
