"""A case of the round's matrix: how many clients, how large a model."""

import argparse
import re
from dataclasses import dataclass

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Case:
    """``clients`` clients, each of whose updates is as large as the model: ``size_bytes``."""

    clients: int
    size_bytes: int

    @property
    def bytes_a_round(self) -> int:
        """What passes in a round: an update from each, the model to each."""
        return 2 * self.clients * self.size_bytes

    def __str__(self) -> str:
        for unit, scale in reversed(_UNITS.items()):
            if self.size_bytes >= scale:
                return f"{self.clients} clients × {self.size_bytes / scale:g} {unit}"
        return f"{self.clients} clients"


def parse_cases(text: str) -> list[Case]:
    """The cases of ``2x4MB,10x40MB``; a size is a multiple of 4 bytes, for float32."""
    return [_case(word.strip()) for word in text.split(",")]


def _case(text: str) -> Case:
    matched = re.fullmatch(r"([0-9]+)x([0-9.]+)(B|kB|MB|GB)", text)
    if matched is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no case like 10x40MB")
    return Case(int(matched[1]), int(float(matched[2]) * _UNITS[matched[3]]) // 4 * 4)
