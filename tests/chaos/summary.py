"""``python -m tests.chaos.summary REPORT.json …``: the tables of docs/reliability.md."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIGURES = ("rounds", "updates_confirmed", "lost", "counted_twice", "two_models", "stuck_rounds")


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
    """A line for each kind of fault: how often, by broker."""
    brokers = sorted({report["broker_version"] for report in reports})
    times: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(brokers, 0))
    for report in reports:
        for fault, count in report["faults"].items():
            times[fault][report["broker_version"]] += count
    lines = [_row(["fault", *brokers]), _row(["---"] * (1 + len(brokers)))]
    lines += [_row([fault.replace("_", " "), *times[fault].values()]) for fault in sorted(times)]
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Print both tables."""
    reports = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
    sys.stdout.write(f"{runs(reports)}\n\n{kinds(reports)}\n")


if __name__ == "__main__":
    main()
