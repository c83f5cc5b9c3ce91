"""What a federation of Flower is to do, and what its server tells; no Flower in here."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from benchmarks.harness.contestants import peak_rss_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

ROOT: Final = Path(__file__).parents[3]
VARIABLE: Final = "WARREN_FLOWER_SETTING"
TOLERANCE: Final = 1e-4


class UntrainedModel(RuntimeError):
    """The last model is not what the clients' training makes of the first one."""


@dataclass(frozen=True)
class Setting:
    """One federation; Flower's processes inherit it in the environment.

    Attributes:
        clients: How many take part in every round.
        size_bytes: Of the model, which is one float32 array, and of each update.
        rounds: In all; the first one is not timed, as it waits for the clients to appear.
        told: The file in which the server tells its figures when it has done its rounds.
        started_s: When the first of Flower's processes was started, on the monotonic clock.
        address: Where the older server listens, host:port.
    """

    clients: int
    size_bytes: int
    rounds: int
    told: str
    started_s: float
    address: str = ""

    @classmethod
    def inherited(cls) -> Self:
        """The setting of the federation that this process belongs to."""
        return cls(**json.loads(os.environ[VARIABLE]))

    def environment(self) -> Mapping[str, str]:
        """The variable with which processes inherit it."""
        return {VARIABLE: json.dumps(asdict(self))}


def train(model: "npt.NDArray[Any]", client: int) -> "npt.NDArray[Any]":
    """Training that takes no time: ``model`` itself, its element ``client`` greater by one."""
    model[client] += 1
    return model


@dataclass
class Rounds:
    """The ends of the rounds, taken inside the server."""

    setting: Setting
    first_model: "npt.NDArray[Any]"
    ends_s: list[float] = field(default_factory=list)

    def end(self) -> None:
        """A round has ended: its model is there."""
        self.ends_s.append(time.monotonic())

    def tell(self, model: "npt.NDArray[Any]") -> None:
        """Write down the figures, provided that ``model`` has been trained by all in each round.

        Raises:
            UntrainedModel: it has not, so that the figures would be those of something easier.
        """
        count, rounds = self.setting.clients, self.setting.rounds
        gained = model[:count] - self.first_model[:count]
        if len(self.ends_s) != rounds or abs(gained - rounds / count).max() > TOLERANCE:
            raise UntrainedModel(f"{len(self.ends_s)} rounds made the model greater by {gained}")
        figures = {
            "round_seconds": [b - a for a, b in zip(self.ends_s, self.ends_s[1:], strict=False)],
            "server_rss_bytes": peak_rss_bytes(),
            "seconds_to_first_round": self.ends_s[0] - self.setting.started_s,
        }
        # Whoever waits for the file must never see half of it.
        draft = Path(self.setting.told + ".draft")
        draft.write_text(json.dumps(figures))
        draft.replace(self.setting.told)
