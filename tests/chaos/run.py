"""A run of the suite: faults until the time is up, then the reckoning."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS, Fault, fill_disk
from tests.chaos.ledger import counts, reckon
from tests.chaos.stage import QUORUM, Plan, Stage, Stuck
from tests.support.pace import allow
from warren_shared.tensors.layout import Array

Told = Callable[[float, Counter[str], int], None]  # share of the time, faults so far, version

EMPTY_S = 300.0
PACE_S = 0.3  # between two faults, at most
SPARE_SLOTS = 500


def run(plan: Plan, folder: Path, told: Told) -> dict[str, Any]:
    """Do it; return the report."""
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    faults: Counter[str] = Counter()
    stuck: list[str] = []
    stage = Stage(plan, folder)
    try:
        with stage.management() as management:
            version = management.version()
        with small_disk(stage.checkpoints) as is_small:
            stage.open()
            stage.wait_for_progress()
            try:
                _harm(stage, faults, told, {fill_disk} if not is_small else set())
                stage.wait_for_progress(3)
            except Stuck as error:
                stuck.append(f"{error}, after {faults.total()} faults")
            reckoning = settle(stage, stuck)
    finally:
        stage.close()
    rejected = Counter(
        f"{record['client']}: {record['reason']}"
        for name in ("coordinator-a", "coordinator-b")
        for record in stage.crew.records(name)
        if record["action"] == "update_rejected"
    )
    report = {
        "seed": plan.seed,
        "downlink": plan.downlink,
        "broker_version": version,
        "minutes": (time.monotonic() - begin) / 60,
        "messages_per_update": -(-stage.federation.model_bytes >> 20),
        "faults": dict(sorted(faults.items())),
        "faults_total": faults.total(),
        **asdict(reckoning),
        "stuck_rounds": len(stuck),
        "stuck": stuck,
        "tracebacks": stage.crew.tracebacks(),
        "unexpected_ends": stage.crew.unexpected,
        "restarts": sum(stage.crew.ends.values()),
        "rejected": dict(sorted(rejected.items())),
    }
    report["passed"] = (
        reckoning.is_exact
        and not stuck
        and not report["tracebacks"]
        and not stage.crew.unexpected
        and not any(line.startswith("client-") for line in rejected)
    )
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _harm(stage: Stage, faults: Counter[str], told: Told, without: set[Fault]) -> None:
    kinds = [fault for fault in FAULTS if fault not in without]
    weights = [FAULTS[fault] for fault in kinds]
    begin = time.monotonic()
    while (share := (time.monotonic() - begin) / stage.plan.seconds) < 1:
        version = stage.crew.version
        told(share, faults, version)
        if version > stage.plan.slots - SPARE_SLOTS:
            return
        (fault,) = stage.random.choices(kinds, weights)
        fault(stage)
        faults[fault.__name__] += 1
        stage.pause(stage.random.uniform(0.0, PACE_S))
        if faults.total() % 20 == 0:
            stage.wait_for_progress()


def settle(stage: Stage, stuck: list[str]) -> Any:
    """Let the clients go, fold what they left in the queue, and reckon."""
    for name in (*stage.crew.names("client"), *stage.crew.names("coordinator")):
        stage.crew.remove(name)
    for wire in stage.wires.values():
        wire.release()
    # In rounds of the usual size, as long as they last; only then what is left, one by one.
    _version, before = _fold_the_rest(stage, stuck, QUORUM)
    version, after = _fold_the_rest(stage, stuck, 1)
    return reckon(stage, before, version, after)


def _fold_the_rest(stage: Stage, stuck: list[str], quorum: int) -> tuple[int, Array]:
    def published() -> int:
        records = stage.crew.records("coordinator-a")
        return sum(record["action"] == "model_published" for record in records)

    before = published()
    stage.crew.add(stage.coordinator("coordinator-a", quorum))
    # It publishes the newest model again when it takes over; before that it folds nothing.
    if not stage.until(lambda: published() > before, EMPTY_S):
        stuck.append("the coordinator does not take over")
    stage.crew.last_news = time.monotonic()
    if not stage.until(
        lambda: time.monotonic() > stage.crew.last_news + allow(stage.quiet_s), EMPTY_S
    ):
        stuck.append("the queue does not get empty")
    stage.crew.remove("coordinator-a")
    return counts(stage)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of 64 MiB at ``folder``, if we may mount one; whether there is one.

    It goes when we do, however that is: one that stays is in the way of who removes the folder.
    """
    mount = 'mount -t tmpfs -o size=64m chaos "$1"'
    script = f'{mount} || exit; echo mounted; cat >/dev/null; umount -l "$1"'
    with subprocess.Popen(
        ["sh", "-c", script, "sh", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as mounting:
        assert mounting.stdout is not None
        yield bool(mounting.stdout.readline())
