"""What keeping past versions costs a round: ``python -m benchmarks.keeping``.

Saves a checkpoint after each of a row of rounds that keep one core busy, without past versions and
with five, and prints how long saving took. Writes to the folder for temporary files.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.storage.store import Store
from warren_shared.tensors.layout import Weights

CASES: Final = ((1, 120, 0.02), (40, 40, 0.3), (400, 16, 3.0))  # megabytes, rounds, seconds each
WARM_UP: Final = 4


def save_times(megabytes: int, rounds: int, round_s: float, kept: int) -> list[float]:
    """Seconds that saving took in each round but the first WARM_UP."""
    with tempfile.TemporaryDirectory() as folder:
        settings = CoordinatorSettings(
            broker_url="amqp://a:b@localhost/f", checkpoint_dir=Path(folder), keep_versions=kept
        )
        store = Store(settings, lambda _seconds: False)
        store.take_over()
        store.audit.take_over(None)
        models = [Weights.of([np.full(megabytes * 250_000, n, np.float32)]) for n in (0, 1)]
        total = np.zeros_like(models[0][0])
        state, times = State("f", "ab" * 4, 0, models[0], {}), []
        for version in range(1, rounds):
            end = time.perf_counter() + round_s
            while time.perf_counter() < end:
                np.add(total, 1, out=total)
            record = RoundRecord(version=version, norm=1.0)
            state = state.after(models[version % 2], [], record, 0)
            began = time.perf_counter()
            store.save(state)
            times.append(time.perf_counter() - began)
        store.give_back()
        store.close()
    return times[WARM_UP:]


def main() -> None:
    """Print a line for each case."""
    for megabytes, rounds, round_s in CASES:
        for kept in (0, 5, 0, 5):
            times = [seconds * 1e3 for seconds in save_times(megabytes, rounds, round_s, kept)]
            sys.stdout.write(
                f"{megabytes} MB, {kept} versions kept: saving takes {statistics.median(times):.1f}"
                f" ms, at most {max(times):.1f}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
