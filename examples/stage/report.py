"""The comparison as figures, as a table for a terminal, and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from string import ascii_uppercase
from typing import Any

from rich import box
from rich.table import Table

from warren_examples.stage.study import Study

Evaluation = Mapping[str, Mapping[str, float]]  # site or "all" -> figure -> value


@dataclass(frozen=True)
class Figures:
    """Figures of every model on every site's held-out patients, for every seed."""

    study: Study
    federated: Mapping[int, Evaluation]
    alone: Mapping[int, Mapping[str, Evaluation]]  # site or "pooled" -> Evaluation

    @property
    def names(self) -> Sequence[str]:
        """The sites' names."""
        return self.study.names

    def values(self, model: str, place: str, figure: str) -> list[float]:
        """One value a seed: ``model`` (a site, ``federated``, ``pooled``) judged at ``place``."""
        if model == "federated":
            return [found[place][figure] for found in self.federated.values()]
        return [found[model][place][figure] for found in self.alone.values()]

    def mean(self, model: str, figure: str, place: str = "all") -> float:
        """Mean over the seeds."""
        return fmean(self.values(model, place, figure))

    def spread(self, model: str, figure: str, place: str = "all") -> float:
        """Standard deviation over the seeds; 0 for a single one."""
        values = self.values(model, place, figure)
        return stdev(values) if len(values) > 1 else 0.0

    @property
    def models(self) -> list[tuple[str, str]]:
        """Name and heading of every model, in the order in which they are shown."""
        own = [(name, f"{name} alone") for name in self.names]
        return [*own, ("federated", "federated"), ("pooled", "all data pooled")]


def table(figures: Figures) -> Table:
    """Every model, judged on the held-out patients of all sites and of each; fits 80 columns."""
    letters = dict(zip(figures.names, ascii_uppercase, strict=False))
    headings = {name: f"{letter} {name}" for name, letter in letters.items()}
    count = len(figures.federated)
    shown = Table(
        title=f"{figures.study.title}: who trained the model, and how good it is",
        caption=f"On held-out {figures.study.people}: AUC and accuracy at all sites, mean ±"
        f" standard deviation of {count} splits; A, B, …: accuracy at that site",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("trained by", no_wrap=True)
    shown.add_column("AUC", justify="right", no_wrap=True)
    shown.add_column("accuracy", justify="right", no_wrap=True)
    for letter in letters.values():
        shown.add_column(letter, justify="right")
    for model, heading in figures.models:
        cells = [
            f"{figures.mean(model, figure):.3f} ± {figures.spread(model, figure):.3f}"
            for figure in ("auc", "accuracy")
        ]
        cells += [f"{figures.mean(model, 'accuracy', name):.2f}" for name in figures.names]
        style = {"federated": "bold green", "pooled": "dim"}.get(model)
        last = model == figures.names[-1]
        shown.add_row(headings.get(model, heading), *cells, style=style, end_section=last)
    return shown


def summary(figures: Figures, facts: Mapping[str, Any]) -> str:
    """The result in two sentences."""
    federated, pooled = figures.mean("federated", "auc"), figures.mean("pooled", "auc")
    local = fmean(figures.mean(name, "auc") for name in figures.names)
    return (
        f"Federated AUC {federated:.3f}; the sites alone {local:.3f} on average, all data in one"
        f" place {pooled:.3f}. {facts['updates_folded']} updates of {facts['clients']} clients in"
        f" {facts['seeds']} runs of {facts['rounds']} rounds, {facts['traffic']}; no record left"
        f" its process. {_protection(facts)} RabbitMQ {facts['broker']['version']},"
        f" {facts['seconds']:.0f} s in all."
    )


def who_sees_what(figures: Figures, facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of each party of a masked run: what it has seen alone, and what with whom."""
    sums = facts["seeds"] * facts["rounds"]
    sites = f"{facts['clients']} sites"
    return [
        ("coordinator", f"{sums} sums of {sites}, and who took part; no update",
         "with the keeper: every update"),
        ("keeper", "who took part and when; nothing of any update or model",
         "with the coordinator: every update"),
        ("broker's operator", "who sent how much and when", "with the keeper: the same, since what"
         " is masked is encrypted to the coordinator as well"),
        ("each site", "the models, and its own records",
         f"all but one of the {sites} with the coordinator: the update of the one"),
        ("who gets the final model", f"the model, which {figures.study.people} have shaped",
         "differential privacy (--privacy) bounds what it tells"),
    ]  # fmt: skip


def seen(figures: Figures, facts: Mapping[str, Any]) -> Table:
    """Who could have seen what, for a terminal."""
    shown = Table(title="Who could have seen what", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("party", "alone", "together"):
        shown.add_column(heading)
    for row in who_sees_what(figures, facts):
        shown.add_row(*row)
    return shown


def _protection(facts: Mapping[str, Any]) -> str:
    if facts.get("masked"):
        return (
            "Every update was masked: the coordinator read sums, and the keeper, which took the"
            " masks off them, read nothing."
        )
    if not facts.get("encrypted"):
        return "Every model was signed, every client had a user of its own."
    return (
        "Every connection was mutual TLS, every model signed, every update encrypted to the"
        " coordinator."
    )


def write_json(path: Path, figures: Figures, facts: Mapping[str, Any]) -> None:
    """Write the figures and facts for programs."""
    report: dict[str, Any] = {key: value for key, value in facts.items() if key != "traffic"}
    for model in ("federated", "pooled"):
        report[model] = {f: figures.mean(model, f) for f in figures.study.figures}
        report[model] |= {f"{f}_sd": figures.spread(model, f) for f in figures.study.figures}
    report["local"] = {
        figure: {name: figures.mean(name, figure) for name in figures.names}
        for figure in figures.study.figures
    }
    path.write_text(json.dumps(report, indent=2) + "\n")
