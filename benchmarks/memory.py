"""The coordinator's peak memory with few and with many clients, which must be the same."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.harness import fleet
from benchmarks.harness.matrix import Case
from benchmarks.reporting.rows import Row

CLIENTS: Final = (2, 20, 200)
MODEL_BYTES: Final = 4_000_000
ROUNDS: Final = 5
TIMEOUT_S: Final = 300.0
OTHERS: Final = 1 << 30  # bytes to leave to whoever else uses this machine


def rows(clients: Sequence[int] = CLIENTS, size_bytes: int = MODEL_BYTES) -> list[Row]:
    """Peak memory in MB at each number of light clients, beside what we allow ourselves."""
    allowed = 3 * size_bytes + 60_000_000
    found = []
    for count in clients:
        case = Case(count, size_bytes)
        done = fleet.measure(case, ROUNDS, TIMEOUT_S).run
        found.append(
            Row(
                case=f"coordinator's peak memory, {case}",
                unit="MB",
                ours=done.coordinator_rss_bytes / 1e6,
                limit=allowed / 1e6,
                limit_name="3 × model + 60 MB",
                peak_rss_bytes=done.coordinator_rss_bytes,
                model_bytes=size_bytes,
                more={"rounds": ROUNDS},
            )
        )
    return found


def fits(needed: int, what: str) -> bool:
    """Whether ``needed`` bytes are free; says so if not, since then rows will be missing."""
    free = available_bytes()
    if needed + OTHERS > free:
        told = f"needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are available"
        Console(stderr=True).print(f"left out {what}: {told}")
    return needed + OTHERS <= free


def available_bytes() -> int:
    """Memory that is free or can be made so."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
