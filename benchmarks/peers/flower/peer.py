"""Flower's rounds, measured by its own Python in its own environment; needs no Flower here."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ROOT: Final = Path(__file__).parents[3]
PYTHON: Final = "WARREN_FLOWER_PYTHON"
STOP_S: Final = 30.0


class FlowerUnmeasured(RuntimeError):
    """Flower's environment is missing, or its federation failed or took too long."""


@dataclass(frozen=True)
class FlowerRounds:
    """What a federation of Flower took.

    Attributes:
        version: Of Flower.
        round_seconds: Of each round after the first, from the last one's end to its own.
        server_rss_bytes: Peak resident memory of the process that aggregates.
        seconds_to_first_round: From starting the first process to the end of the first round.
        superlink_rss_bytes: Peak of the SuperLink, which passes on all messages; or else 0.
    """

    version: str
    round_seconds: Sequence[float]
    server_rss_bytes: int
    seconds_to_first_round: float
    superlink_rss_bytes: int = 0


def measure(
    mode: Literal["deployed", "grpc", "simulation"],
    clients: int,
    size_bytes: int,
    rounds: int,
    *,
    timeout_s: float,
) -> FlowerRounds:
    """Run ``rounds`` rounds of ``clients`` clients, with a model of ``size_bytes``.

    Raises:
        FlowerUnmeasured: there are no figures; it says why.
    """
    program = [_python(), "-m", "benchmarks.peers.flower.run", mode]
    numbers = [clients, size_bytes, rounds, timeout_s]
    with subprocess.Popen(
        [*program, *map(str, numbers)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said, complaint = process.communicate(timeout=timeout_s + STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # it was to end by itself after timeout_s
            raise FlowerUnmeasured(f"Flower {mode} does not end") from None
        except BaseException:
            process.terminate()  # it ends all that it has started, and then itself
            raise
    if process.returncode:
        raise FlowerUnmeasured(f"Flower {mode}: {complaint.strip() or process.returncode}")
    told = json.loads(said.splitlines()[-1])
    return FlowerRounds(
        version=told["version"],
        round_seconds=tuple(told["round_seconds"]),
        server_rss_bytes=told["server_rss_bytes"],
        seconds_to_first_round=told["seconds_to_first_round"],
        superlink_rss_bytes=told.get("superlink_rss_bytes", 0),
    )


def _python() -> str:
    python = Path(os.environ.get(PYTHON, ROOT / ".venv-flower" / "bin" / "python"))
    if not python.exists():
        raise FlowerUnmeasured("Flower is not installed here: make .venv-flower/.installed")
    return str(python)
