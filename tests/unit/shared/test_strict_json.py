"""What leaves as JSON can be read by everybody, also where a figure is no number."""

import json
import re
from math import inf, isnan, nan

from coordinator_worker.monitoring.events import Stamped
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.text.formatting import sparkline
from coordinator_worker.text.markdown import sparkline as in_markdown
from tests.support.processes import ROOT
from warren_shared import strict_json


def test_numbers_that_are_not_finite_are_null_at_any_depth() -> None:
    value = {"a": [nan, 1.0, {"b": -inf}], "c": (inf, "NaN"), "d": True}
    expected = {"a": [None, 1.0, {"b": None}], "c": [None, "NaN"], "d": True}
    assert json.loads(strict_json.dumps(value)) == expected


def test_nothing_that_is_written_for_others_is_written_in_another_way() -> None:
    """What the coordinator writes has figures of its clients in it, and each may be NaN."""
    written = {
        str(path.relative_to(ROOT))
        for folder in ("coordinator_worker", "client_worker/commands")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"(?<!strict_)json\.dumps?\(", path.read_text())
    }
    assert not written


def test_a_late_comer_sees_nan_where_the_coordinator_saw_it() -> None:
    view = FederationView()
    common = {"time": 1.0, "number": 1, "federation": "f"}
    metrics = {"loss": nan, "eval_auc": 0.5}
    accepted = {"client": "alfa", "base_version": 0, "examples": 1, "metrics": metrics}
    accepted["quorum"] = [1, 2]
    view.apply(Stamped.from_dict({"event": "client.joined", "client": "alfa", **common}))
    view.apply(
        Stamped.from_dict({"event": "update.accepted.alfa", "version": 0, **accepted, **common})
    )
    closed = {"version": 1, "updates": 1, "metrics": metrics, "clients": {"alfa": {}}}
    view.apply(Stamped.from_dict({"event": "round.closed", **closed, **common}))
    late = FederationView.of(json.loads(strict_json.dumps(view.as_dict())))
    late.apply(
        Stamped.from_dict(
            json.loads(strict_json.dumps({"event": "round.closed", **closed, **common}))
        )
    )
    for found in (*late.rounds, late.clients["alfa"]):
        figures = found["metrics"] if isinstance(found, dict) else found.metrics
        assert isnan(figures["loss"])
        assert figures["eval_auc"] == 0.5


def test_a_curve_has_a_gap_where_a_figure_is_nan() -> None:
    assert sparkline([0.0, nan, 1.0], 3) == "▁ █"
    assert in_markdown([nan, 0.0, 1.0]) == " ▁█"
