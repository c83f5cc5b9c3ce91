"""Writes deploy/grafana/warren.json: ``python deploy/grafana/dashboard.py``.

What it shows is in panels.toml, where a query can be read without the JSON around it.
"""

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "$datasource"}
WIDTH = 24
TALL, LOW = 8, 5
SERIES = "timeseries"

Json = dict[str, Any]


def dashboard() -> Json:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "warren-federation",
        "title": "Warren: a federation",
        "description": "Rounds, updates, clients, model and broker of one federation.",
        "tags": ["warren", "federated learning"],
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 38,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _federation()]},
        "panels": list(_panels()),
    }


def _datasource() -> Json:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
    }


def _federation() -> Json:
    return {
        "name": "federation",
        "label": "Federation",
        "type": "query",
        "datasource": DATASOURCE,
        "query": "label_values(warren_model_version, federation)",
        "refresh": 2,
        "sort": 1,
    }


def _panels() -> Iterator[Json]:
    number = y = 0
    for row in tomllib.loads((HERE / "panels.toml").read_text())["row"]:
        number += 1
        yield {
            "id": number, "type": "row", "title": row["title"], "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
        }  # fmt: skip
        y += 1
        x = height = 0
        for panel in row["panel"]:
            width = panel.get("width", WIDTH // 3)
            if x + width > WIDTH:
                x, y = 0, y + height
            number += 1
            height = LOW if width < WIDTH // 3 else TALL
            yield _panel(panel, number, {"x": x, "y": y, "w": width, "h": height})
            x += width
        y += height


def _panel(panel: Json, number: int, position: Json) -> Json:
    return {
        "id": number,
        "type": panel.get("kind", SERIES),
        "title": panel["title"],
        "description": panel["about"],
        "datasource": DATASOURCE,
        "gridPos": position,
        "targets": [
            {
                "datasource": DATASOURCE,
                "refId": "ABCDEFGH"[place],
                "expr": expression,
                "legendFormat": legend or "__auto",
            }
            for place, (expression, legend) in enumerate(panel["queries"])
        ],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel.get("kind", SERIES)),
    }


def _field(panel: Json) -> Json:
    steps = [{"value": None if n == 0 else value, "color": colour}
             for n, (value, colour) in enumerate(panel.get("steps", ()))]  # fmt: skip
    found: Json = {
        "unit": panel.get("unit", "short"),
        "min": 0 if "most" in panel else None,
        "max": panel.get("most"),
        "thresholds": {"mode": "absolute", "steps": steps} if steps else None,
    }
    if "names" in panel:
        named = {str(n): {"text": name, "index": n} for n, name in enumerate(panel["names"])}
        found["mappings"] = [{"type": "value", "options": named}]
    if "kind" not in panel:
        found["custom"] = {
            "fillOpacity": 20 if panel.get("stacked") else 0,
            "showPoints": "never",
            "spanNulls": True,
            "stacking": {"mode": "normal"} if panel.get("stacked") else None,
        }
    return _without_none(found)


def _options(kind: str) -> Json:
    if kind == SERIES:
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True,
                       "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }  # fmt: skip
    return {"reduceOptions": {"calcs": ["lastNotNull"], "values": False}}


def _without_none(found: Json) -> Json:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in found.items()
        if value is not None
    }


if __name__ == "__main__":
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    (HERE / "warren.json").write_text(text)
    sys.stdout.write(f"{len(text)} bytes\n")
