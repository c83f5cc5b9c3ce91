"""What every experiment leaves behind: ``<name>.json``, a table ``<name>.md``, ``<name>.svg``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.harness.machine import machine
from benchmarks.reporting.phrases import number
from experiments.pictures import Panel, draw

RESULTS: Final = Path(__file__).parent / "results"
SHOWN: Final = ("asynchronous", "compression", "private")  # whose pictures are committed


@dataclass(frozen=True)
class Table:
    """``rows``: a cell for each column; None is shown as a dash, floats with three digits."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclass(frozen=True)
class Findings:
    """What an experiment found.

    Args:
        name: Of the experiment, and of its files.
        title: One line.
        setting: What was trained on what, with which parameters, so that it can be repeated.
        tables: The figures.
        panels: The picture.
        reached: What was to be reached -> what was, in words.
    """

    name: str
    title: str
    setting: Mapping[str, Any]
    tables: Sequence[Table]
    panels: Sequence[Panel]
    reached: Mapping[str, str] = field(default_factory=dict)


def publish(findings: Findings, folder: Path = RESULTS) -> None:
    """Print the tables and write the three files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(findings)
    Console(width=140).print(Markdown(text))
    record = {
        "title": findings.title,
        "machine": machine(),
        "setting": findings.setting,
        "reached": findings.reached,
        "tables": [
            {"title": table.title, "columns": table.columns, "rows": table.rows}
            for table in findings.tables
        ],
        "curves": [
            {"title": p.title, "x": p.x_name, "y": p.y_name, "lines": p.lines}
            for p in findings.panels
        ],
    }
    path = folder / findings.name
    written = json.dumps(_rounded(record), indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(written + "\n")
    path.with_suffix(".md").write_text(text)
    draw(path.with_suffix(".svg"), findings.title, findings.panels)


def markdown(findings: Findings) -> str:
    """The tables, under the title and with the setting below."""
    parts = [f"# {findings.title}", ""]
    if findings.name in SHOWN:
        parts += [f"![{findings.title}]({findings.name}.svg)", ""]
    for table in findings.tables:
        parts += [f"**{table.title}**", "", "| " + " | ".join(table.columns) + " |"]
        parts.append("| --- |" + " ---: |" * (len(table.columns) - 1))
        parts += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows]
        parts.append("")
    parts += [f"- {goal}: {found}" for goal, found in findings.reached.items()]
    told = "; ".join(f"{name}: {_words(value)}" for name, value in findings.setting.items())
    command = f"python -m experiments.{findings.name} --data FOLDER"
    parts += ["", f"Setting: {told}.", "", f"Repeat: `{command}`.", ""]
    return "\n".join(parts)


def _words(value: Any) -> str:
    """A value of the setting as a person says it."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_words(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        nested = any(isinstance(each, (list, tuple)) for each in value)
        return (" or " if nested else ", ").join(_words(each) for each in value)
    return str(value)


def _cell(value: str | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) else number(value)


def _rounded(value: Any) -> Any:
    """``value`` with five digits where there were more: nobody compares the rest."""
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    return float(f"{float(value):.5g}")
