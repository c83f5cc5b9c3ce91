"""``--record-privacy`` and ``--privacy-limit``: what a site promises its records."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Final, Self

from warren_shared.config import parameters
from warren_shared.errors import ConfigError
from warren_shared.privacy.accountant import check_promise, mu_of
from warren_shared.protocol.messages import MAX_EXAMPLES

RECORD_PRIVACY: Final = "--record-privacy"
PRIVACY_LIMIT: Final = "--privacy-limit"
NO_FOLDER: Final = (
    f"{RECORD_PRIVACY} and {PRIVACY_LIMIT} need --state-dir: what is spent would be forgotten when"
    " the client ends"
)
MAX_STEPS: Final = 1_000_000
Random = Callable[[int], bytes]  # so many random bytes
MOST_NOISE: Final = 1e4  # of a step, in clips
SMALLEST_CLIP, LARGEST_CLIP = 1e-9, 1e9


class Refused(ConfigError):
    """A refusal for the sake of privacy; its words hold nothing of the data and may be sent."""


@dataclass(frozen=True, kw_only=True)
class RecordPrivacy:
    """(``epsilon``, ``delta``)-differential privacy of each record, in all that leaves the site.

    It is for ``steps`` noisy gradient steps; each record is once in each. A record's gradient has
    an L2 norm of at most ``clip``. ``examples`` is a public number, which stands for the number
    of records wherever that is asked for: the gradients' sum is divided by it, and it is the
    weight of the updates.
    """

    epsilon: float
    delta: float
    steps: int
    examples: int
    clip: float = 1.0

    def __post_init__(self) -> None:
        check_promise(self.epsilon, self.delta)
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps is {self.steps}; it is from 1 to {MAX_STEPS:,}")
        if not 1 <= self.examples <= MAX_EXAMPLES:
            raise ValueError(f"examples is {self.examples}; it is from 1 to {MAX_EXAMPLES:,}")
        if not SMALLEST_CLIP <= self.clip <= LARGEST_CLIP:
            raise ValueError(f"clip is {self.clip:g}; it is the largest norm of a record's gradient"
                             f", from {SMALLEST_CLIP:g} to {LARGEST_CLIP:g}")  # fmt: skip
        if self.delta * self.examples >= 1:
            raise ValueError(
                f"with delta {self.delta:g} and {self.examples} examples a record may be published"
                " as it is: delta is well below 1 / examples"
            )
        if sqrt(self.steps) > MOST_NOISE * self.mu:
            raise ValueError("so little epsilon for so many steps leaves nothing but noise")

    def __str__(self) -> str:
        said = f"epsilon={self.epsilon:g},delta={self.delta:g},steps={self.steps}"
        return f"{said},examples={self.examples},clip={self.clip:g}"

    @classmethod
    def parse(cls, spec: str) -> Self:
        """What ``spec`` says, as ``epsilon=1,delta=1e-5,steps=30,examples=200``.

        Raises ConfigError.
        """
        return parameters.call(cls, spec, named=f"{RECORD_PRIVACY} {spec}")

    @cached_property
    def mu(self) -> float:
        """The sensitivity of all steps together, in standard deviations of the noise."""
        return mu_of(self.epsilon, self.delta)

    @property
    def mu_of_step(self) -> float:
        """That of one step."""
        return self.mu / sqrt(self.steps)


@dataclass(frozen=True, kw_only=True)
class PrivacyLimit:
    """The most, (``epsilon``, ``delta``), that all runs together may claim of a site."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_promise(self.epsilon, self.delta)

    def __str__(self) -> str:
        return f"epsilon={self.epsilon:g},delta={self.delta:g}"

    @classmethod
    def parse(cls, spec: str) -> Self:
        """What ``spec`` says, as ``epsilon=8,delta=1e-5``. Raises ConfigError."""
        return parameters.call(cls, spec, named=f"{PRIVACY_LIMIT} {spec}")

    @cached_property
    def mu(self) -> float:
        """As RecordPrivacy's."""
        return mu_of(self.epsilon, self.delta)
