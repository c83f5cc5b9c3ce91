"""``--privacy``: what a run promises its clients, and what it needs for that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Final

from warren_shared.config.named import choose
from warren_shared.errors import ConfigError
from warren_shared.privacy.accountant import check_promise, mu_of
from warren_shared.privacy.mechanism import Calibration, Correlation, length_before_rounding
from warren_shared.protocol.messages import PrivacyTerms

SMALL: Final = 20  # updates in a sum, below which noise that hides one leaves nothing


@dataclass(frozen=True, kw_only=True)
class ClientPrivacy:
    """(``epsilon``, ``delta``)-differential privacy of each client, for the whole run.

    A client's update has an L2 norm of at most ``clip``, and it is in at most ``contributions``
    rounds that are at least ``distance`` apart. ``correlated``: the noise of a round takes back
    that of the rounds before.
    """

    correlated: ClassVar[bool]

    epsilon: float
    delta: float
    clip: float
    contributions: int = 1
    distance: int = 1
    small: bool = False

    def __post_init__(self) -> None:
        check_promise(self.epsilon, self.delta)
        if not self.clip > 0 or not isfinite(self.clip):
            raise ValueError(f"clip is {self.clip:g}; it is the largest norm of an update, above 0")
        if self.contributions < 1 or self.distance < 1:
            raise ValueError("contributions and distance are 1 or more")

    def __str__(self) -> str:
        name = "correlated" if self.correlated else "gaussian"
        said = f"epsilon={_short(self.epsilon)},delta={_short(self.delta)},clip={_short(self.clip)}"
        bounds = f"contributions={self.contributions},distance={self.distance}"
        return f"{name}:{said},{bounds}{',small=true' * self.small}"

    def terms(self, rounds: int) -> PrivacyTerms:
        """What clients are told, who keep to it themselves."""
        return PrivacyTerms(
            epsilon=self.epsilon,
            delta=self.delta,
            clip=self.clip,
            contributions=self.contributions,
            distance=self.distance,
            rounds=rounds,
        )

    def correlation(self, rounds: int) -> Correlation:
        """The best for ``rounds`` rounds."""
        if not self.correlated:
            return Correlation()
        return Correlation.best(rounds, self.contributions, self.distance)

    def calibration(
        self, rounds: int, quorum: int, size: int, correlation: Correlation | None = None
    ) -> Calibration:
        """The noise for ``rounds`` rounds of ``quorum`` updates of ``size`` parameters.

        ``correlation``: the one that the run has, or else the best.

        Raises:
            ConfigError: sums of 32 bits have no room for it.
        """
        bounds = (rounds, self.contributions, self.distance)
        correlation = correlation or self.correlation(rounds)
        mu = mu_of(self.epsilon, self.delta)
        found = Calibration(correlation, *bounds, mu, size, quorum)
        try:
            found.step  # noqa: B018  # it has to exist
        except ValueError as error:
            raise ConfigError(
                f"--privacy {self}: {error}; lower --quorum, or the model's size"
            ) from None
        return found

    def mask_scale(self, calibration: Calibration, weight: int) -> float:
        """Steps for 1.0 in a masked update, ``weight`` being the largest that multiplies one.

        The keeper adds the noise of ``calibration``, so an update times its weight has to be
        ``calibration.unit`` long at most: roundings are multiplied, too. The uniform numbers that
        are added where weights differ (`warren_shared.tensors.ring`) say nothing of an update.

        Raises:
            ConfigError: roundings would be most of it.
        """
        length = length_before_rounding(calibration.unit // weight, calibration.size)
        if length < calibration.unit // weight // 2:
            raise ConfigError(
                f"--privacy {self}: {calibration.size} parameters are too many for masked sums of"
                f" 32 bits in which an update counts {weight} times"
            )
        return length / self.clip


def _short(value: float) -> str:
    return f"{value!r}".removesuffix(".0").replace("e-0", "e-")


def privacy(spec: str) -> ClientPrivacy:
    """What ``spec`` names; raises ConfigError."""
    return choose("privacy", spec, MECHANISMS)


class Correlated(ClientPrivacy):
    """Noise that takes back that of the rounds before: the least noise in the model."""

    correlated = True


class Gaussian(ClientPrivacy):
    """Independent noise in each round."""

    correlated = False


MECHANISMS: Final[Mapping[str, Callable[..., ClientPrivacy]]] = {
    "correlated": Correlated,
    "gaussian": Gaussian,
}
