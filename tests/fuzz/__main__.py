"""``python -m tests.fuzz decoder|step|codes``: hostile bytes, led by coverage (atheris).

Begins with the corpus in the repository and writes what it finds new to ``runs/fuzz``; a crash ends
it with the input in ``runs/fuzz/TARGET-crash-…``. ``TARGET.json`` there has the figures.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import atheris

ROOT = Path(__file__).parent.parent.parent
CORPUS = Path(__file__).parent / "corpus"
MEMORY_MB = {"decoder": 512, "step": 1024, "codes": 512}
LONGEST = {"decoder": 4096, "step": 1024, "codes": 2048}
REPORT_EVERY = 1000


def main() -> None:
    """Fuzz one target."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("target", choices=[*MEMORY_MB])
    flags.add_argument("--seconds", type=int, default=600, help="for how long (600)")
    flags.add_argument("--out", type=Path, default=ROOT / "runs" / "fuzz", help="where to write")
    given = flags.parse_args()
    target: str = given.target
    with atheris.instrument_imports(include=["warren_shared", "coordinator_worker", "tests.fuzz"]):
        from tests.fuzz import codes, decoder, step
    run = {"decoder": decoder.run, "step": step.run, "codes": codes.run}[target]
    found = given.out / target
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={given.seconds}",
        f"-max_len={LONGEST[target]}",
        f"-rss_limit_mb={MEMORY_MB[target]}",
        f"-malloc_limit_mb={MEMORY_MB[target] // 4}",
        "-timeout=20",
        "-print_final_stats=1",
        f"-artifact_prefix={given.out}/{target}-",
    ]
    counted = _counted(run, target, given.out)
    atheris.Setup([sys.argv[0], *options, str(found), str(CORPUS / target)], counted)
    atheris.Fuzz()


def _counted(run: Callable[[bytes], None], target: str, out: Path) -> Callable[[bytes], None]:
    """``run``, with a report of how often it ran, kept current: libFuzzer ends without a word."""
    executions, began = 0, time.monotonic()

    def report() -> None:
        seconds = time.monotonic() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told = {
            "target": target,
            "executions": executions,
            "seconds": round(seconds, 1),
            "executions_per_second": round(executions / seconds, 1),
            "peak_rss_bytes": peak * 1024,
            "memory_limit_bytes": MEMORY_MB[target] << 20,
            "crashes": [path.name for path in sorted(out.glob(f"{target}-crash-*"))],
        }
        (out / f"{target}.json").write_text(json.dumps(told, indent=2) + "\n")

    def one(data: bytes) -> None:
        nonlocal executions
        executions += 1
        run(data)
        if executions % REPORT_EVERY == 0:
            report()

    return one


if __name__ == "__main__":
    main()
