"""Many runs side by side: a checkpoint folder for each below one folder, whose names they have."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.text.formatting import plain
from coordinator_worker.text.table import Column, console, fitted
from warren_shared import strict_json
from warren_shared.errors import ConfigError

MAX_METRICS: Final = 3
DEEPEST: Final = 3  # folders below the one that is named


def show(folder: Path, *, as_json: bool) -> None:
    """Print the runs under ``folder``.

    Raises:
        ConfigError: there is none.
    """
    found = runs(folder)
    if as_json:
        sys.stdout.write(strict_json.lines(found))
        return
    out = console()
    out.print(fitted(_columns(found), out.width))


def runs(folder: Path) -> list[dict[str, Any]]:
    """Each run under ``folder``, by name, as plain figures.

    Raises:
        ConfigError: there is none, or a checkpoint cannot be read.
    """
    found = [_line(folder, place, state) for place, state in _checkpoints(folder)]
    if not found:
        raise ConfigError(
            f"--runs-dir {folder} holds no checkpoint: give each run a folder below it, such as"
            f" --checkpoint-dir {folder / 'learning-rate-0.1'}"
        )
    changed = _changed([line["settings"] for line in found])
    for line in found:
        line["differs"] = {name: line["settings"].get(name) for name in changed}
    return sorted(found, key=lambda line: line["name"])


def _checkpoints(folder: Path, depth: int = 0) -> Iterator[tuple[Path, State]]:
    if any((folder / name).exists() for name in checkpoint.NAMES):
        state = checkpoint.load(folder)
        if state is not None:
            yield folder, state
        return  # what is in it belongs to it
    if depth == DEEPEST or not folder.is_dir():
        return
    for below in sorted(folder.iterdir()):
        if below.is_dir():
            yield from _checkpoints(below, depth + 1)


def _line(folder: Path, place: Path, state: State) -> dict[str, Any]:
    last = state.history[-1] if state.history else None
    known = [each["settings"] for each in state.setup if "settings" in each]
    metrics = dict(last.metrics) if last is not None else {}
    if last is not None and last.final_evaluation is not None:
        metrics |= last.final_evaluation.metrics
    return {
        "name": str(place.relative_to(folder)) if place != folder else place.name,
        "run": state.run,
        "federation": state.federation,
        "version": state.version,
        "time": (last.time if last is not None else None) or None,
        "clients": len(state.roster),
        "metrics": metrics,
        "best": None if state.best is None else list(vars(state.best).values()),
        "ended": last.ended if last is not None else None,
        "settings": known[-1] if known else {},
    }


def _changed(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of settings that are not the same in all runs."""
    names = dict.fromkeys(name for each in settings for name in each)
    return [
        name for name in names if any(each.get(name) != settings[0].get(name) for each in settings)
    ]


def _columns(lines: Sequence[dict[str, Any]]) -> list[Column]:
    names = dict.fromkeys(name for line in lines for name in line["metrics"])
    ranked = sorted(names, key=lambda name: not name.startswith("eval_"))[:MAX_METRICS]
    differs = list(lines[0]["differs"])
    return [
        Column("run", [plain(line["name"]) for line in lines], numbers=False),
        Column("version", [str(line["version"]) for line in lines]),
        *(
            Column(plain(name), [_figure(line["metrics"].get(name)) for line in lines])
            for name in ranked
        ),
        Column("best", [_best(line["best"]) for line in lines], optional=True),
        *(
            Column(plain(name), [plain(_setting(line["differs"][name])) for line in lines],
                   optional=True, numbers=False)
            for name in differs
        ),
        Column("last round", [_local(line["time"]) for line in lines], optional=True,
               numbers=False),
        Column("ended", [Text(plain(line["ended"] or "–")) for line in lines], optional=True,
               numbers=False),
    ]  # fmt: skip


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _best(best: list[Any] | None) -> str:
    return "–" if best is None else f"{best[1]:.4g} (version {best[0]})"


def _setting(value: Any) -> str:
    return "–" if value is None else str(value)


def _local(time: float | None) -> str:
    if not time:
        return "–"
    return datetime.fromtimestamp(time, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
