"""deploy/grafana: files that Grafana and Prometheus take, and that say what to do."""

import json
import re
import subprocess
import sys
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, RowPanel

from tests.promql import asked

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}

# As Prometheus documents its rule files; here each alert must also say what it is and what to do.
RULES = {
    "type": "object",
    "required": ["groups"],
    "additionalProperties": False,
    "properties": {
        "groups": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "rules"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "interval": DURATION,
                    "rules": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/alert"}},
                },
            },
        }
    },
    "$defs": {
        "alert": {
            "type": "object",
            "required": ["alert", "expr", "labels", "annotations"],
            "additionalProperties": False,
            "properties": {
                "alert": {"type": "string", "pattern": "^Warren[A-Za-z]+$"},
                "expr": {"type": "string"},
                "for": DURATION,
                "keep_firing_for": DURATION,
                "labels": {
                    **TEXTS,
                    "required": ["severity"],
                    "properties": {"severity": {"enum": ["warning", "critical"]}},
                },
                "annotations": {**TEXTS, "required": ["summary", "action"]},
            },
        }
    },
}
SCRAPES = {
    "type": "object",
    "required": ["scrape_configs", "rule_files"],
    "additionalProperties": False,
    "properties": {
        "global": {"type": "object", "properties": {"scrape_interval": DURATION}},
        "rule_files": {"type": "array", "items": {"type": "string"}},
        "scrape_configs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["job_name", "static_configs"],
                "additionalProperties": False,
                "properties": {
                    "job_name": {"type": "string"},
                    "metrics_path": {"type": "string", "pattern": "^/"},
                    "params": {"type": "object", "additionalProperties": {"type": "array"}},
                    "static_configs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["targets"],
                            "additionalProperties": False,
                            "properties": {
                                "targets": {"type": "array", "items": {"type": "string"}},
                                "labels": TEXTS,
                            },
                        },
                    },
                },
            },
        },
    },
}


def read(name: str) -> Any:
    return yaml.safe_load((GRAFANA / name).read_text())


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "warren.json").read_text())
    return found


@pytest.fixture(scope="module")
def alerts() -> list[dict[str, Any]]:
    return [rule for group in read("alerts.yml")["groups"] for rule in group["rules"]]


def without_none(found: Any) -> Any:
    if isinstance(found, dict):
        return {k: without_none(v) for k, v in found.items() if v is not None}
    return list(map(without_none, found)) if isinstance(found, list) else found


def known_to(grafana: Any, ours: Any, path: str = "") -> typing.Iterator[str]:
    """Each thing of ours that is not in what Grafana made of it."""
    if isinstance(ours, dict):
        for name, value in ours.items():
            if not isinstance(grafana, dict) or name not in grafana:
                yield f"{path}.{name}"
            else:
                yield from known_to(grafana[name], value, f"{path}.{name}")
    elif isinstance(ours, list):
        if not isinstance(grafana, list) or len(grafana) != len(ours):
            yield path
        else:
            for number, (theirs, mine) in enumerate(zip(grafana, ours, strict=True)):
                yield from known_to(theirs, mine, f"{path}[{number}]")
    elif grafana != ours:
        yield f"{path} is {ours!r}"


def badly_typed(found: Any, path: str = "") -> typing.Iterator[str]:
    """Each attribute of one of Grafana's objects that has not the type which that declares."""
    if isinstance(found, list | tuple):
        for number, one in enumerate(found):
            yield from badly_typed(one, f"{path}[{number}]")
    elif isinstance(found, dict):
        for name, one in found.items():
            yield from badly_typed(one, f"{path}.{name}")
    elif type(found).__module__.startswith("grafana_foundation_sdk.models"):
        for name, hint in typing.get_type_hints(type(found)).items():
            value = getattr(found, name, None)
            if value is not None and not _is(value, hint):
                yield f"{path}.{name} is {value!r}, not {hint}"
            yield from badly_typed(value, f"{path}.{name}")


def _is(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object) or isinstance(hint, typing.TypeVar):
        return True
    if origin is typing.Union:
        return any(_is(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if origin in (list, dict):
        values = value.values() if isinstance(value, dict) else value
        return isinstance(value, origin) and all(_is(one, inner[-1]) for one in values)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value in [member.value for member in hint]
    return isinstance(value, int | float if hint is float else origin or hint)


def understood(dashboard: dict[str, Any]) -> Dashboard:
    register_default_plugins()
    return Dashboard.from_json(dashboard)


def test_the_dashboard_is_what_is_made_of_its_panels(tmp_path: Path) -> None:
    for name in ("dashboard.py", "panels.toml"):
        (tmp_path / name).write_text((GRAFANA / name).read_text())
    subprocess.check_call([sys.executable, str(tmp_path / "dashboard.py")])
    made = (tmp_path / "warren.json").read_text()
    assert made == (GRAFANA / "warren.json").read_text(), "run deploy/grafana/dashboard.py"


def test_the_dashboard_is_of_grafanas_own_schema(dashboard: dict[str, Any]) -> None:
    found = understood(dashboard)
    assert list(badly_typed(found)) == []
    theirs = json.loads(JSONEncoder().encode(found))
    assert list(known_to(theirs, without_none(dashboard))) == []


@pytest.mark.parametrize(
    "broken",
    [
        {"grphTooltip": 1},
        {"refresh": 10, "schemaVersion": "38"},
        {"panels": [{"type": "stat", "options": {"reduceOption": {}}}]},
        {
            "panels": [
                {
                    "type": "stat",
                    "datasource": {"type": "prometheus"},
                    "targets": [{"refId": "A", "query": "up"}],
                }
            ]
        },
        {"panels": [{"type": "timeseries", "fieldConfig": {"defaults": {"custom": {"fil": 1}}}}]},
        {"panels": [{"type": "timeseries", "options": {"legend": {"displayMode": "lst"}}}]},
    ],
)
def test_what_grafana_does_not_know_would_be_found(broken: dict[str, Any]) -> None:
    found = understood(broken)
    theirs = json.loads(JSONEncoder().encode(found))
    assert [*badly_typed(found), *known_to(theirs, without_none(broken))] != []


def test_panels_have_a_place_of_their_own(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert x < 24
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_every_panel_says_what_it_shows_and_goes_by_the_variables(
    dashboard: dict[str, Any],
) -> None:
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert names == {"datasource", "federation"}
    for panel in understood(dashboard).panels:
        if not isinstance(panel, RowPanel):
            assert panel.description, panel.title
            assert panel.datasource.uid == "$datasource"
            for target in panel.targets:
                assert set(re.findall(r"\$([a-z]+)", target.expr)) <= names


def test_rules_and_scrapes_are_of_their_schema() -> None:
    jsonschema.Draft202012Validator(RULES).validate(read("alerts.yml"))
    jsonschema.Draft202012Validator(SCRAPES).validate(read("prometheus.yml"))
    assert read("prometheus.yml")["rule_files"] == ["alerts.yml"]


def test_every_alert_has_a_name_of_its_own_and_is_promql(alerts: list[dict[str, Any]]) -> None:
    names = [rule["alert"] for rule in alerts]
    assert len(set(names)) == len(names)
    for rule in alerts:
        assert asked(rule["expr"]).selectors, rule["alert"]


def test_alerts_and_dashboard_go_by_jobs_that_are_scraped(
    alerts: list[dict[str, Any]], dashboard: dict[str, Any]
) -> None:
    jobs = {job["job_name"] for job in read("prometheus.yml")["scrape_configs"]}
    named = re.findall(r'job=\\?"([^"\\]+)', json.dumps([alerts, dashboard]).replace('\\"', '"'))
    assert set(named) == {"warren-coordinator", "rabbitmq"} <= jobs


@pytest.mark.parametrize("name", ["datasource.yml", "dashboards.yml"])
def test_provisioning_files_have_what_grafana_needs(name: str) -> None:
    found = read(f"provisioning/{name}")
    assert found["apiVersion"] == 1
    (entry,) = found.get("datasources") or found["providers"]
    assert entry["type"] in ("prometheus", "file")
    assert entry.get("url") or entry["options"]["path"]


def test_an_update_that_is_only_late_counts_as_no_rejected_one(
    alerts: list[dict[str, Any]],
) -> None:
    """A client that is slower than the quorum sends stale updates all day, and nothing is wrong."""
    (rule,) = [rule for rule in alerts if rule["alert"] == "WarrenUpdatesRejected"]
    name = "warren_updates_rejected_total"
    counted = [each for each in asked(rule["expr"]).selectors if each.name == name]
    assert len(counted) == 2, "above and below the line"
    assert all(each.matchers == (("reason", "!=", "stale"),) for each in counted)
