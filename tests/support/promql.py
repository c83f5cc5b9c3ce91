"""What a PromQL expression asks for, to be held against what there is."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

PROMETHEUS_ADDS = frozenset({"job", "instance"})


class Selector(NamedTuple):
    """A metric and what its labels must be: (label, operator, value)."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


class Asked(NamedTuple):
    """All that an expression asks for; ``labels`` are those that it groups or joins by."""

    selectors: tuple[Selector, ...]
    labels: frozenset[str]


class Sample(NamedTuple):
    """A series as a scrape shows it."""

    name: str
    labels: Mapping[str, str]
    value: float


def asked(expression: str) -> Asked:
    """Parse; raises ValueError if it is no PromQL."""
    selectors, labels = [], set()
    for part in _parts(promql.parse(expression)):
        if isinstance(part, promql.VectorSelector):
            found = ((m.name, _sign(m.op), m.value) for m in part.matchers.matchers)
            selectors.append(Selector(part.name, tuple(found)))
        modifier = getattr(part, "modifier", None)
        if isinstance(part, promql.AggregateExpr) and modifier is not None:
            labels |= set(modifier.labels)
        elif isinstance(part, promql.BinaryExpr) and modifier is not None and modifier.matching:
            labels |= set(modifier.matching.labels) | set(modifier.group_labels or ())
    return Asked(tuple(selectors), frozenset(labels))


def samples(text: str) -> list[Sample]:
    """All series of a scrape."""
    families = text_string_to_metric_families(text)
    return [Sample(s.name, s.labels, s.value) for family in families for s in family.samples]


def faults(expression: str, there: Iterable[Sample]) -> Iterator[str]:
    """Every metric and label of ``expression`` that is not ``there``, a sentence each."""
    wants, there = asked(expression), list(there)
    known = PROMETHEUS_ADDS | {"le"}
    for selector in wants.selectors:
        named = [sample for sample in there if sample.name == selector.name]
        if not named:
            yield f"there is no metric {selector.name}"
            continue
        known |= {label for sample in named for label in sample.labels}
        matchers = [m for m in selector.matchers if m[0] not in PROMETHEUS_ADDS]
        if not any(all(_fits(sample, *m) for m in matchers) for sample in named):
            yield f"{selector} selects none of {[sample.labels for sample in named]}"
    if wants.selectors and (unknown := wants.labels - known):
        yield f"no metric of it has the labels {sorted(unknown)}"


def _fits(sample: Sample, label: str, sign: str, value: str) -> bool:
    if label not in sample.labels:
        return False
    has = sample.labels[label]
    return {
        "=": has == value,
        "!=": has != value,
        "=~": bool(re.fullmatch(value, has)),
        "!~": not re.fullmatch(value, has),
    }[sign]


def _sign(operator: Any) -> str:
    names = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}
    return names[str(operator).rpartition(".")[2]]


def _parts(part: Any) -> Iterator[Any]:
    yield part
    below = [getattr(part, name, None) for name in ("lhs", "rhs", "expr", "vector_selector")]
    for one in (*below, *(getattr(part, "args", None) or ())):
        if one is not None:
            yield from _parts(one)
