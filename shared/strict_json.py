"""JSON that every reader takes: it has no word for NaN and infinities, which become null."""

import json
from collections.abc import Iterable
from math import isfinite
from typing import Any


def dumps(value: Any, **options: Any) -> str:
    """``value`` as ``json.dumps`` writes it, with null for each number that is not finite."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:  # hardly ever, so it may cost a copy
        return json.dumps(_finite(value), allow_nan=False, **options)


def lines(values: Iterable[Any]) -> str:
    """What ``--json`` prints: each of ``values`` on a line of its own."""
    return "".join(f"{dumps(value)}\n" for value in values)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value
