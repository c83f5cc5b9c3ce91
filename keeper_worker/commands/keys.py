"""``keeper-worker keys``: make the keeper's keys, and print what others need of them."""

import sys
from pathlib import Path

from keeper_worker.keys import FLAG, make
from warren_shared.config.command_line import Parser

ABOUT = (
    "Make the keeper's keys in a folder, unless they are there, and print the public line that"
    " `broker-config apply --keeper` takes. The private keys never leave the folder."
)


def run(argv: list[str]) -> None:
    """Print one line; on standard error, what it is for."""
    parser = Parser(prog="keeper-worker keys", description=ABOUT, allow_abbrev=False)
    parser.add_argument(
        FLAG, metavar="DIR", type=Path, required=True, help="the keeper's folder, made if need be"
    )
    folder = parser.parse_args(argv).state_dir
    keys, is_new = make(folder)
    said = "made in" if is_new else "kept in"
    sys.stderr.write(
        f"keys are {said} {folder}: let nobody copy them, least of all who runs the coordinator or"
        " the broker\nwhoever runs the broker needs this line: broker-config apply --keeper LINE\n"
    )
    sys.stdout.write(f"{keys.public_line}\n")
