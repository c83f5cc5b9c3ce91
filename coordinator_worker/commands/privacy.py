"""``coordinator-worker privacy``: what a private run promises, and what of it is spent."""

import sys

from rich.table import Table

from coordinator_worker.privacy.report import facts, rows
from coordinator_worker.storage import checkpoint
from coordinator_worker.terminal.participation import ReportSettings
from coordinator_worker.text.table import console
from warren_shared import strict_json
from warren_shared.config import settings
from warren_shared.errors import ConfigError

ABOUT = (
    "Print what a private run promises each client, what of it is spent, and what is not covered,"
    " from the checkpoint; may run beside the coordinator."
)


def run(argv: list[str]) -> None:
    """Print the report."""
    given, _ = settings.load(ReportSettings, description=ABOUT, argv=argv)
    folder = given.checkpoint_dir
    state = checkpoint.load(folder) if folder.is_dir() else None
    if state is None:
        raise ConfigError(f"--checkpoint-dir {folder} holds no checkpoint yet")
    if state.privacy is None:
        raise ConfigError(
            f"the run in {folder} promises no privacy: its coordinator was started without"
            " --privacy (docs/privacy.md)"
        )
    told = facts(state.privacy)
    if given.json_:
        sys.stdout.write(strict_json.lines([told]))
        return
    title = f"{state.federation}, run {state.run}, version {state.version}"
    table = Table(title=title, box=None, show_header=False, title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for what, words in rows(told):
        table.add_row(what, words)
    console().print(table)
