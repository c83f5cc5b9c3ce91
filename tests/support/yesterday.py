"""Warren as it was: an earlier commit of this repository, to be run beside today's."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

from tests.support.processes import ROOT

# The last commit before signatures and encryption. It speaks protocol 1 alone, and writes all of a
# header out.
COMMIT: Final = "4cbe108729e6857bd52dfbcdeb8dd6c397beed39"


def export(folder: Path) -> Path:
    """All files of that commit in ``folder``; no test may pass because it is not there."""
    told = subprocess.run(
        ["git", "archive", "--format=tar", COMMIT], cwd=ROOT, capture_output=True, check=False
    )
    if told.returncode:
        raise AssertionError(
            f"commit {COMMIT} is needed and is not here ({told.stderr.decode().strip()}): this is"
            " a shallow clone or no clone; get the history with `git fetch --unshallow`"
        )
    with tarfile.open(fileobj=io.BytesIO(told.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder
