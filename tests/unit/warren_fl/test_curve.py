"""The curve of a run: an SVG whose points are where the figures say."""

import re
from math import nan
from pathlib import Path
from xml.etree import ElementTree

import pytest

from warren_fl.curve import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Curve
from warren_shared.errors import ConfigError

HISTORY = [
    {"version": 0, "metric/eval_loss": 4.0},
    {"version": 1, "metric/loss": 3.0, "metric/eval_loss": 2.0, "metric/auc": 0.5},
    {"version": 2, "metric/loss": nan, "metric/eval_loss": 0.0, "metric/auc": 0.75},
]


def test_points_are_where_the_figures_say(tmp_path: Path) -> None:
    Curve.of(HISTORY, ["eval_loss"]).save(tmp_path / "curve.svg")
    root = ElementTree.parse(tmp_path / "curve.svg").getroot()  # noqa: S314  our own file
    (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert [x for x, _ in points] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    assert points[0][1] == TOP
    assert points[0][1] < points[1][1] < points[2][1] < HEIGHT


def test_losses_are_drawn_unless_others_are_named() -> None:
    assert list(Curve.of(HISTORY).lines) == ["eval_loss", "loss"]
    assert Curve.of(HISTORY).lines["loss"] == [(1.0, 3.0)]  # NaN is no point
    assert list(Curve.of(HISTORY, ["auc"]).lines) == ["auc"]
    assert "<circle" in Curve.of(HISTORY).svg()
    with pytest.raises(ConfigError, match=r"has a metric f1; there are auc, eval_loss"):
        Curve.of(HISTORY, ["f1"])
    with pytest.raises(ConfigError, match="nothing can be drawn"):
        Curve.of([{"version": 1}])


def test_both_axes_have_titles() -> None:
    for metrics, title in (["auc"], "auc"), ([], "loss"), (["auc", "loss"], "metric"):
        drawn = Curve.of(HISTORY, metrics).svg()
        assert f'rotate(-90)" text-anchor="middle">{title}</text>' in drawn
        assert ">version</text>" in drawn


def test_a_name_from_a_client_is_text_and_no_markup() -> None:
    drawn = Curve.of([{"version": 1, "metric/<script>&": 1.0}]).svg()
    assert "<script>" not in drawn
    assert re.search("&lt;script&gt;&amp;", drawn)
