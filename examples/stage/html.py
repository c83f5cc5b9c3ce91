"""The report as one HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from warren_examples.stage.report import Figures, summary, who_sees_what
from warren_examples.stage.svg import curves, dots

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --line: #e4e7ec;
  --page: #fff; --card: #f8f9fb; --accent: #0b7a4b; --other: #8a94a6; --pool: #3566c4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #9aa3b2; --line: #2f3643;
  --page: #14181f; --card: #1b212b; --accent: #3ecf8e; --other: #7d8798; --pool: #7fa6f5; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1000px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p { margin: .4rem 0 } .soft { color: var(--soft) }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem;
  margin: 1.4rem 0 }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .8rem 1rem } .card b { display: block; font-size: 1.5rem; line-height: 1.2 }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 1.2rem }
svg { width: 100%; height: auto } .grid { stroke: var(--line) }
.tick { fill: var(--soft); font-size: 12px } .name { fill: var(--ink); font-size: 14px }
.name.federated { fill: var(--accent); font-weight: 600 }
.thin { fill: none; stroke: var(--accent); stroke-width: 1; opacity: .35 }
.thick { fill: none; stroke: var(--accent); stroke-width: 3 }
.run { opacity: .35 } circle { fill: var(--other) } circle.federated { fill: var(--accent) }
circle.pooled { fill: var(--pool) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .92rem }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums } th { color: var(--soft); font-weight: 500 }
th:first-child, td:first-child { text-align: left }
table.words th, table.words td { text-align: left; vertical-align: top }
tr.federated td { color: var(--accent); font-weight: 600 }
"""


def write_html(
    path: Path,
    figures: Figures,
    facts: Mapping[str, Any],
    history: Sequence[Sequence[Mapping[str, float]]],
) -> None:
    """Write the report; ``history`` has the rounds' mean metrics for each run."""
    title = escape(figures.study.title)
    body = f"<h1>{title}</h1><p>{escape(figures.study.description)}</p>"
    body += _cards(figures, facts)
    people = escape(figures.study.people)
    body += f"<h2>Who does how well on all sites' held-out {people} (AUC)</h2>{_dots(figures)}"
    body += '<p class="soft">Large dot: mean; small dots: one for each split of the data.</p>'
    body += '<div class="pair">'
    # What clients evaluate in round 1 is the untrained model: it would squash the rest flat.
    for metric, heading, skip in (("eval_auc", "Global model's AUC", 1), ("loss", "Loss", 0)):
        lines = [[r[metric] for r in rounds if metric in r][skip:] for rounds in history]
        if any(lines):
            chart = curves([line for line in lines if line], heading)
            body += f"<div><h2>{heading}, as the clients report it</h2>{chart}</div>"
    body += "</div><h2>Every model at every site</h2>" + _table(figures)
    if facts.get("masked"):
        body += "<h2>Who could have seen what</h2>" + _seen(figures, facts)
    body += f'<p class="soft">{escape(summary(figures, facts))}</p>'
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>{body}</html>\n'
    )


def _seen(figures: Figures, facts: Mapping[str, Any]) -> str:
    head = "<tr><th>party</th><th>alone</th><th>together</th></tr>"
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row in who_sees_what(figures, facts)
    )
    return f'<div class="scroll"><table class="words">{head}{rows}</table></div>'


def _cards(figures: Figures, facts: Mapping[str, Any]) -> str:
    local = [figures.mean(name, "auc") for name in figures.names]
    cards = [
        (f"{figures.mean('federated', 'auc'):.3f}", "AUC federated"),
        (f"{sum(local) / len(local):.3f}", "AUC of the sites alone, mean"),
        (f"{figures.mean('pooled', 'auc'):.3f}", "AUC with all data pooled"),
        (f"{facts['updates_folded']}", "updates folded, no record moved"),
        (f"{facts['seconds']:.0f} s", f"on RabbitMQ {facts['broker']['version']}"),
    ]
    inner = "".join(f'<div class="card"><b>{v}</b>{escape(t)}</div>' for v, t in cards)
    return f'<div class="cards">{inner}</div>'


def _dots(figures: Figures) -> str:
    return dots(
        [
            (heading, model, figures.mean(model, "auc"), figures.values(model, "all", "auc"))
            for model, heading in figures.models
        ],
        "AUC of each model",
    )


def _table(figures: Figures) -> str:
    places = ["all", *figures.names]
    head = "".join(f"<th>{escape(place)}</th>" for place in places)
    rows = ""
    for model, heading in figures.models:
        cells = "".join(
            f"<td>{figures.mean(model, 'auc', place):.3f}"
            f" / {figures.mean(model, 'accuracy', place):.3f}</td>".replace("nan", "–")
            for place in places
        )
        rows += f'<tr class="{model}"><td>{escape(heading)}</td>{cells}</tr>'
    return (
        f'<p class="soft">AUC / accuracy on the held-out {escape(figures.study.people)} of the'
        " column.</p>"
        f'<div class="scroll"><table><tr><th>trained by</th>{head}</tr>{rows}</table></div>'
    )
