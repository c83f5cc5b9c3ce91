"""Whatever is asked, in any order: no combination of the answers is of fewer than the least."""

import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper_worker.sums.rules import Refused
from tests.support.masking import RUN, Desk, request_of, row_of, seed_of
from warren_shared.protocol.messages import MaskedUpdate, Unmask

LEAST = 3
CLIENTS = ("alfa", "bravo", "charlie", "delta", "echo", "phone.0", "phone.1", "phone.2")
RUNS = (RUN, "99" * 4)
BASES = range(5)

updates = st.builds(
    lambda client, base, weight: (client, base, weight),
    st.sampled_from(CLIENTS),
    st.sampled_from(BASES),
    # None: what the table says, without which nearly all is refused.
    st.one_of(st.none(), st.none(), st.none(), st.sampled_from([1, 2, 3, 4, 16])),
)
requests = st.tuples(
    st.just("ask"),
    st.sampled_from(RUNS),
    st.integers(1, 6),
    st.lists(updates, min_size=1, max_size=8, unique_by=lambda one: one[:2]),
)
fair = st.tuples(  # most of what an attacker asks is a fair request that is changed a little
    st.just("fair"),
    st.sampled_from(RUNS),
    st.integers(1, 6),
    st.lists(st.sampled_from(CLIENTS), min_size=LEAST, max_size=8, unique=True),
)
again = st.tuples(
    st.just("again"), st.integers(0, 30), st.sampled_from(["same", "drop", "add", "later"])
)
steps = st.lists(
    st.one_of(fair, fair, requests, again, st.tuples(st.just("restart"))), min_size=3, max_size=25
)


def user(client: str) -> str:
    return client.partition(".")[0]


def transfer(run: str, client: str, base: int) -> str:
    return f"{RUNS.index(run)}{CLIENTS.index(client)}{base}".ljust(16, "0")


def asked(run: str, version: int, rows: list[tuple[str, int, int | None]]) -> Unmask:
    found: list[MaskedUpdate] = []
    for client, base, weight in rows:
        row = row_of(client, base, version)
        change: dict[str, Any] = {"transfer": transfer(run, client, base)}
        found.append(row.model_copy(update=change | ({"weight": weight} if weight else {})))
    return request_of(version, run=run, updates=found)


def narrowest(answers: list[dict[tuple[str, str], int]]) -> int:
    """How many users the narrowest combination of ``answers`` is of, LEAST if it is not fewer."""
    columns = sorted({key for answer in answers for key in answer})
    matrix = np.array([[answer.get(key, 0) for key in columns] for answer in answers], float)
    users = sorted({user(client) for client, _ in columns})
    for size in range(1, LEAST):
        for few in combinations(users, size):
            others = matrix[:, [user(client) not in few for client, _ in columns]]
            if np.linalg.matrix_rank(others) < len(answers):
                return size
    return LEAST


def test_the_oracle_finds_what_two_sums_differ_by() -> None:
    three = {(client, "t"): 1 for client in ("alfa", "bravo", "charlie")}
    assert narrowest([three]) == LEAST
    assert narrowest([three, {**three, ("delta", "t"): 1}]) == 1
    assert narrowest([three, {**three, ("alfa", "t"): 2}]) == 1


@settings(max_examples=150)
@given(steps)
def test_no_combination_of_answers_is_narrower_than_the_least(stream: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder) / "state")
        for run in RUNS:
            for client in CLIENTS:
                desk.send(*(
                    seed_of(client, base, run=run, transfer=transfer(run, client, base), elements=4)
                    for base in BASES
                ))  # fmt: skip
        given_away: dict[tuple[str, int], tuple[dict[tuple[str, str], int], bytes]] = {}
        past: list[Unmask] = []
        for step in stream:
            if step[0] == "restart":
                desk = desk.restarted()
                continue
            if step[0] == "again" and not past:
                continue
            request = _request(step, past)
            past.append(request)
            try:
                answer = desk.ask(request)
            except Refused:
                continue
            row = {(u.client, u.transfer): u.weight for u in request.updates}
            known = given_away.setdefault((request.run, request.version), (row, answer))
            assert known == (row, answer), "two answers for one version"
        if given_away:
            assert narrowest([row for row, _ in given_away.values()]) == LEAST


def _request(step: Any, past: list[Unmask]) -> Unmask:
    if step[0] == "ask":
        return asked(*step[1:])
    if step[0] == "fair":
        _, run, version, clients = step
        return asked(run, version, [(client, min(version - 1, 4), None) for client in clients])
    before = past[step[1] % len(past)]
    told = [(u.client, u.base_version, None) for u in before.updates]
    missing = [c for c in CLIENTS if c not in {u.client for u in before.updates}][:1]
    more = [(client, told[0][1], None) for client in missing]
    match step[2]:
        case "later":
            return asked(before.run, before.version + 1, told + more)
        case "add":
            return asked(before.run, before.version, told + more)
        case "drop":
            return before.model_copy(update={"updates": before.updates[1:] or before.updates})
    return before
