"""``coordinator-worker rejected``: what was rejected, and why."""

import argparse

from coordinator_worker.terminal.rejected import delete_all, show
from warren_shared.config import settings

ABOUT = (
    "List what was rejected and why, newest first, and how many for each reason: the messages in"
    " the queue `update.rejected`, which stay there for a week. Takes the coordinator's bundle, and"
    " may run beside the coordinator; nothing is taken out of the queue."
)


def run(argv: list[str]) -> None:
    """Print the list, or delete what is on it."""
    own = _flags()
    given, _ = settings.load(settings.StaffSettings, description=ABOUT, argv=argv, own=own)
    asked = settings.own_words(own, settings.StaffSettings, argv)
    if asked.delete_all:
        delete_all(given.broker, given.federation, as_json=asked.json)
    else:
        show(given.broker, given.federation, limit=asked.limit, as_json=asked.json)


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="coordinator-worker rejected", add_help=False, allow_abbrev=False
    )
    flags.add_argument("--json", action="store_true", help="for programs: a JSON object a line")
    flags.add_argument(
        "--limit",
        type=_count,
        metavar="N",
        help="list the newest N only (default: 50, with --json all); the total counts all",
    )
    flags.add_argument(
        "--delete-all",
        action="store_true",
        help="instead of listing them, delete all rejected messages for good, unseen ones too; no"
        " model changes by it, only the record of what was rejected is gone",
    )
    return flags


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)
