"""``python -m benchmarks.from_python``: ten lines of Python, from import to a curve in a file.

Four clients, twenty rounds, with a task in numpy and with one in Keras.
"""

import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Final

LINES: Final = """
from warren_fl import Federation

with Federation("{task}", clients=4) as federation:
    result = federation.run(rounds=20)
result.plot("loss").save("curve.svg")
"""
TASKS: Final = ("plain", "keras")
REPEATS: Final = 5


def seconds(task: str) -> float:
    """From the start of Python to its end."""
    lines = LINES.format(task=f"benchmarks.harness.start_tasks:{task}")
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        # Tasks are found by sys.path, which begins with our folder here.
        program = f"import os, sys; sys.path = {sys.path!r}; os.chdir({folder!r})\n{lines}"
        subprocess.run([sys.executable, "-c", program], check=True)
        return time.monotonic() - began


def main() -> int:
    """Print the median and the range of each."""
    for task in TASKS:
        found = sorted(seconds(task) for _ in range(REPEATS))
        sys.stdout.write(
            f"{task}: {median(found):.1f} s ({found[0]:.1f} to {found[-1]:.1f}, {REPEATS} runs)\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
