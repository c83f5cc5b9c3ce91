"""The participation report: who contributed, who is late, who is gone, with their share of data."""

import sys
import time
from pathlib import Path
from typing import ClassVar, Final

from pydantic import Field
from rich.table import Table
from rich.text import Text

from coordinator_worker.state.roster import GONE_AFTER, Standing, participation
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.text.table import WIDE, console
from warren_shared import strict_json
from warren_shared.config.settings_model import Settings
from warren_shared.errors import ConfigError

MAX_CODES: Final = 5  # versions of a task's code in one line
MAX_NAMED: Final = 3  # sites of one of them
STYLES = {
    "in": "green", "late": "yellow", "gone": "red", "silent": "dim", "rejected": "bold red",
    "unseen": "red",
}  # fmt: skip


class ReportSettings(Settings):
    """What ``coordinator-worker participation`` can be told."""

    SECTION: ClassVar[str] = "coordinator"

    checkpoint_dir: Path = Field(Path("checkpoint"), description="folder of the checkpoint")
    json_: bool = Field(False, description="for programs: a JSON object a line")


def report(folder: Path, *, as_json: bool) -> None:
    """Print the report of the checkpoint in ``folder``, which may be in use."""
    state = checkpoint.load(folder) if folder.is_dir() else None
    if state is None:
        raise ConfigError(f"--checkpoint-dir {folder} holds no checkpoint yet")
    standings = participation(state.roster, state.version, state.unseen)
    if as_json:
        sys.stdout.write(strict_json.lines(standing.fields() for standing in standings))
        return
    if not standings:
        console().print(
            f"{state.federation}, run {state.run}, version {state.version}: nothing is known of any"
            " client before a round closes; `coordinator-worker watch` shows who is there"
        )
        return
    console().print(_table(state, standings))
    if (differing := _differing(standings)) is not None:
        console().print(differing)


def _table(state: State, standings: list[Standing]) -> Table:
    table = Table(
        title=f"{state.federation}, run {state.run}, version {state.version}",
        caption=f"gone: no contribution for more than {GONE_AFTER} rounds; data: share of examples",
        box=None,
        header_style="dim",
        title_justify="left",
        caption_justify="left",
        padding=(0, 2, 0, 0),
    )
    table.add_column("client")
    table.add_column("status")
    for heading in ("behind", "updates", "examples", "data", "rejected", "last contribution"):
        table.add_column(heading, justify="right")
    # In a narrow terminal it would cut the other cells; that versions differ is said below.
    has_room = console().width >= WIDE
    tells_code = has_room and any(standing.member.code for standing in standings)
    if tells_code:
        table.add_column("code")
    for standing in standings:
        member = standing.member
        table.add_row(
            standing.client,
            Text(standing.status, STYLES[standing.status]),
            str(standing.behind),
            str(member.contributions),
            str(member.examples) if member.examples else "–",
            f"{standing.data_share:.1%}" if member.examples else "–",
            str(member.rejected),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(member.seen)) if member.seen else "–",
            *([member.code or "–"] if tells_code else []),
        )
    return table


def _differing(standings: list[Standing]) -> Text | None:
    """Which sites run which version of the task's code, if it is not the same everywhere."""
    sites: dict[str, list[str]] = {}
    for standing in standings:
        if standing.member.code:
            sites.setdefault(standing.member.code, []).append(standing.client)
    if len(sites) < 2:
        return None
    ranked = sorted(sites.items(), key=lambda found: (-len(found[1]), found[0]))
    words = "; ".join(f"{code} at {_some(clients)}" for code, clients in ranked[:MAX_CODES])
    more = f"; and {len(ranked) - MAX_CODES} others" if len(ranked) > MAX_CODES else ""
    return Text(f"sites run different versions of the task's code: {words}{more}", "yellow")


def _some(clients: list[str]) -> str:
    if len(clients) <= MAX_NAMED:
        return ", ".join(clients)
    return f"{clients[0]} and {len(clients) - 1} others"
