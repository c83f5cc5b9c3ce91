"""What ``keeper-worker`` can be told."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from warren_shared.config.client_privacy import SMALL, ClientPrivacy, privacy
from warren_shared.config.observability import MetricsPort
from warren_shared.config.settings import WorkerSettings
from warren_shared.errors import ConfigError
from warren_shared.naming import KEEPER_USER, is_user_name


class KeeperSettings(WorkerSettings):
    """Flags, environment and defaults of the keeper."""

    SECTION: ClassVar[str] = "keeper"
    BUNDLE_OF = (KEEPER_USER, "the keeper")
    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "what is kept": ("state_dir",),
        "what it gives away": ("least", "clients", "max_model_bytes"),
        "privacy (docs/privacy.md)": ("privacy", "rounds", "quorum"),
        "trust": ("verify_keys", "encrypt_key"),
        "metrics": ("metrics_port", "metrics_address", "otel_metrics"),
    }

    COMMON: ClassVar[tuple[str, ...]] = (
        *("state_dir", "least", "clients", "privacy", "rounds", "quorum"),
    )

    state_dir: Path = Field(
        description="folder with the keeper's keys, which `keeper-worker keys` makes, and with the"
        " ledger of what it has given away: never go back to an older copy of it, make new keys"
    )
    least: int = Field(
        3,
        ge=2,
        description="give away no sum of fewer broker users (a fleet is one), whatever the"
        " coordinator says",
    )
    clients: Path | None = Field(
        None,
        description="file with the broker users that are real sites, one a line, # before remarks;"
        " without it all that the broker lets in are taken for such",
    )
    max_model_bytes: int = Field(
        1 << 32,
        ge=1,
        description="give away no sum of more bytes: it is held in memory",
    )
    privacy: str | None = Field(
        None,
        description="add the noise of differential privacy of each client to what is given away,"
        " as the coordinator's --privacy says; what was promised otherwise is refused",
    )
    rounds: int | None = Field(None, ge=1, description="with --privacy: the coordinator's --rounds")
    quorum: int | None = Field(None, ge=1, description="with --privacy: the coordinator's --quorum")
    verify_keys: str = Field(
        description="public keys of the coordinator; only what is signed with one of them is"
        " answered; `broker-config` writes it"
    )
    encrypt_key: str = Field(
        description="public key of the coordinator that answers are encrypted to; `broker-config`"
        " writes it"
    )
    keeper_key: str | None = Field(
        None,
        description="our own public key for seeds, by which other keys are told; `broker-config`"
        " writes it",
    )
    metrics_port: MetricsPort = Field(
        0,
        ge=0,
        le=65535,
        description="port on which Prometheus finds metrics, at /metrics; 0 or off for none",
    )
    metrics_address: str = Field(
        "127.0.0.1",
        description="address on which Prometheus may ask, such as 0.0.0.0 for any",
    )
    otel_metrics: bool = Field(
        False,
        description="send these metrics to the OpenTelemetry collector that"
        " OTEL_EXPORTER_OTLP_ENDPOINT names, too; needs the extra `traces`",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.privacy is None:
            if self.rounds is not None or self.quorum is not None:
                raise ValueError("--rounds and --quorum are those of a private run: add --privacy")
            return self
        if self.rounds is None or self.quorum is None:
            raise ValueError(
                "--privacy needs --rounds and --quorum, as the coordinator has them: the noise is"
                " made for them"
            )
        try:
            promise = self.promise
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if promise is not None and self.quorum < SMALL and not promise.small:
            raise ValueError(
                f"--privacy with --quorum {self.quorum}: noise that hides one client among fewer"
                f" than {SMALL} leaves nothing of the model; say small=true if that is wanted"
            )
        return self

    @property
    def promise(self) -> ClientPrivacy | None:
        """What ``privacy`` says. Raises ConfigError."""
        return privacy(self.privacy) if self.privacy else None

    def known_clients(self) -> frozenset[str] | None:
        """The users in the file ``clients``; None if any is one.

        Raises:
            ConfigError: it cannot be read, or has a line that is no user.
        """
        if self.clients is None:
            return None
        try:
            lines = self.clients.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "no text in UTF-8"
            raise ConfigError(f"--clients {self.clients} cannot be read: {said}") from None
        found = set()
        for number, line in enumerate(lines, 1):
            user = line.partition("#")[0].strip()
            if user and not is_user_name(user):
                raise ConfigError(
                    f"--clients {self.clients}, line {number}: a broker user is lower case, digits,"
                    " - and _, and of a fleet's replica only the fleet's name"
                )
            found.add(user)
        return frozenset(found - {""})
