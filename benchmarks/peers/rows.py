"""Flower on the same arrays, where it can be had; each failure leaves a row without it."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console

from benchmarks.harness.matrix import Case, parse_cases

MODES: Final = {
    "deployed": "Flower deployed",
    "grpc": "Flower gRPC server",
    "simulation": "Flower simulation",
}
ROUNDS: Final = 6  # the first is starting up
TIMEOUT_S: Final = 600.0
# Flower deployed takes 9 to 40 s a round, so only some cases have it.
CASES: Final = "2x4MB,10x40MB,2x400MB"


@dataclass(frozen=True)
class Peer:
    """A peer's rounds and its server's memory, its SuperLink's included; no rounds if it failed."""

    name: str
    round_seconds: Sequence[float] = ()
    server_rss_bytes: int = 0


def measure(case: Case, rounds: int = ROUNDS) -> list[Peer]:
    """Every mode of Flower, one after the other."""
    if case not in parse_cases(CASES):
        return [Peer("")]
    return [_measure(mode, name, case, rounds) for mode, name in MODES.items()]


def _measure(mode: str, name: str, case: Case, rounds: int) -> Peer:
    try:
        flower = importlib.import_module("benchmarks.peers.flower.peer")
        found = flower.measure(mode, case.clients, case.size_bytes, rounds, timeout_s=TIMEOUT_S)
    except Exception as error:  # noqa: BLE001  whatever ails it must not cost us our own figures
        return _left_out(name, case, str(error) or type(error).__name__)
    return Peer(name, found.round_seconds, found.server_rss_bytes + found.superlink_rss_bytes)


def _left_out(name: str, case: Case, why: str) -> Peer:
    Console(stderr=True).print(f"{case}: {name} did not run: {why}")
    return Peer(name)
