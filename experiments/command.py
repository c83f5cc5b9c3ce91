"""The command line that all experiments share."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.data import WHERE
from experiments.report import RESULTS, Findings, publish
from warren_shared.errors import ConfigError


def run(
    argv: Sequence[str] | None, about: str | None, experiment: Callable[[Path, bool], Findings]
) -> int:
    """Read the flags, run ``experiment(data, short)`` and publish what it finds."""
    flags = argparse.ArgumentParser(
        description=about, epilog=WHERE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    flags.add_argument("--short", action="store_true", help="small and in seconds, proves nothing")
    flags.add_argument("--out", type=Path, help="where to write (short: runs/experiments)")
    given = flags.parse_args(argv)
    out = given.out or (Path("runs/experiments") if given.short else RESULTS)
    try:
        publish(experiment(given.data, given.short), out)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0
