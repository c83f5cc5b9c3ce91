"""``coordinator-worker audit``: whose updates made a model."""

import argparse

from coordinator_worker.audited import AuditSettings, rotate, show, verify
from shared import settings

ABOUT = (
    "Say exactly whose updates made a model, from the audit log in the checkpoint folder; without a"
    " VERSION, list all of the run. Needs no broker, and may run beside the coordinator."
)


def run(argv: list[str]) -> None:
    """Print what the audit log says, or check it."""
    own = argparse.ArgumentParser(
        prog="coordinator-worker audit", add_help=False, allow_abbrev=False
    )
    own.add_argument("version", nargs="?", type=int, metavar="VERSION", help="which model")
    what = own.add_mutually_exclusive_group()
    what.add_argument(
        "--verify",
        action="store_true",
        help="check instead that no line was changed or taken out since it was written",
    )
    what.add_argument(
        "--rotate",
        action="store_true",
        help="rename the log's newest file instead; a coordinator goes on in a new one",
    )
    given, _ = settings.load(AuditSettings, description=ABOUT, argv=argv, own=own)
    asked = settings.own_words(own, AuditSettings, argv)
    if asked.verify:
        verify(given.checkpoint_dir)
    elif asked.rotate:
        rotate(given.checkpoint_dir)
    else:
        show(given.checkpoint_dir, asked.version, run=given.run, as_json=given.json_)
