"""``python -m tests.chaos.summary REPORT.json …``: the tables of docs/reliability.md."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIGURES = ("rounds", "updates_confirmed", "lost", "counted_twice", "two_models", "stuck_rounds")


# What the workers do about each kind, so that nothing is lost, counted twice or stuck.
OUTCOMES = {
    "close_connections": "all connect again; unconfirmed messages go out again, unacknowledged ones"
    " come again",
    "consumer_timeout": "the coordinator opens its channel again and folds the round again",
    "cut_wire": "a transfer that was cut starts again; its first part is dropped",
    "cut_wire_at_once": "the same",
    "delete_mailbox": "the client waits until `broker-config apply` has made it again, and joins",
    "disk_alarm": "publishing waits for the broker, acknowledging does not",
    "fill_disk": "the coordinator waits for room; updates wait in the broker",
    "half_close_wire": "the broker ends the connection; the worker connects again",
    "halt_broker": "heartbeats give the connection up; all connect again",
    "halt_client": "rounds go on without it; what it had begun counts when it goes on",
    "halt_coordinator": "its lock keeps the standby from writing beside it",
    "hold_wire": "messages that are held are confirmed later, or sent again",
    "jump_clock": "times in logs and roster jump, nothing else",
    "kill_both_coordinators": "the first to start continues from the checkpoint",
    "kill_broker": "all wait; confirmed updates are on its disk",
    "kill_client": "it starts again; with `--state-dir` it sends what it had trained",
    "kill_coordinator": "the other one takes over with the checkpoint and the queue",
    "memory_alarm": "as with the disk alarm",
    "poison": "rejected with the reason, the round goes on",
    "refuse_checkpoint": "as with a full disk",
    "restart_broker": "as when it is killed",
    "slow_wire": "that client is late, the others do not wait for it",
    "stop_client": "it leaves within seconds, and is back",
    "stop_coordinator": "it gives everything back; the other one takes over",
}


def runs(reports: Sequence[Mapping[str, Any]]) -> str:
    """A line for each run and one for all."""
    heads = ("broker", "seed", "minutes", "faults", *(name.replace("_", " ") for name in FIGURES))
    lines = [_row(heads), _row(["---"] * len(heads))]
    for report in reports:
        facts = [report["broker_version"], report["seed"], f"{report['minutes']:.1f}"]
        lines.append(_row([*facts, report["faults_total"], *(report[name] for name in FIGURES)]))
    sums = [sum(report[name] for report in reports) for name in ("faults_total", *FIGURES)]
    minutes = sum(report["minutes"] for report in reports)
    lines.append(_row(["all", "", f"{minutes:.0f}", *(f"**{total:,}**" for total in sums)]))
    return "\n".join(lines)


def kinds(reports: Sequence[Mapping[str, Any]]) -> str:
    """A line for each kind of fault: how often, by broker, and what comes of it."""
    brokers = sorted({report["broker_version"] for report in reports})
    times: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(brokers, 0))
    for report in reports:
        for fault, count in report["faults"].items():
            times[fault][report["broker_version"]] += count
    lines = [
        _row(["fault", *(f"times on {broker}" for broker in brokers), "outcome"]),
        _row(["---"] * (2 + len(brokers))),
    ]
    lines += [
        _row([fault.replace("_", " "), *times[fault].values(), OUTCOMES[fault]])
        for fault in sorted(times)
    ]
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Print both tables."""
    reports = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
    sys.stdout.write(f"{runs(reports)}\n\n{kinds(reports)}\n")


if __name__ == "__main__":
    main()
