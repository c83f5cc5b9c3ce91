"""What ``client-worker`` can be told."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from client_worker.gpu import check_words
from client_worker.privacy.terms import (
    NO_FOLDER,
    PRIVACY_LIMIT,
    RECORD_PRIVACY,
    PrivacyLimit,
    RecordPrivacy,
)
from warren_shared.amqp.broker_url import BrokerUrl
from warren_shared.config.bundle_owner import CLIENT
from warren_shared.config.observability import MetricsPort, ObservingSettings
from warren_shared.config.settings import WorkerSettings
from warren_shared.errors import ConfigError
from warren_shared.naming import fleet_member, is_client_id, mailbox, speaks_for

MAX_REPLICAS = 10_000


class ClientSettings(ObservingSettings, WorkerSettings):
    """Flags, environment and defaults of a client."""

    SECTION: ClassVar[str] = "client"
    BUNDLE_OF = (CLIENT, "a client")
    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "what to train": ("task", "stay", "state_dir", "training_limit_s", "gpu"),
        "who this is": ("client", "fleet", "virtual"),
        "trust": ("verify_keys", "encrypt_key"),
        "masked updates (docs/secure-aggregation.md)": ("keeper_key", "least_together"),
        "privacy (docs/privacy.md)": ("record_privacy", "privacy_limit"),
    }

    COMMON: ClassVar[tuple[str, ...]] = (
        *("task", "stay", "state_dir", "client", "fleet", "virtual"),
    )

    task: str = Field(
        description="what to train, as package.module:attribute; the task's own arguments follow"
        " as flags, such as --data FILE"
    )
    client: str | None = Field(
        None, description="who this is; the broker knows an enrolled client by its user (default)"
    )
    fleet: str | None = Field(
        None,
        description="take the first free slot in this fleet of replicas instead of being one"
        " client; with --client FLEET.NUMBER take that slot",
    )
    virtual: int | None = Field(
        None,
        ge=1,
        le=MAX_REPLICAS,
        description="with --fleet: be so many clients that take turns in this one process, each"
        " with its own slot",
    )
    state_dir: Path | None = Field(
        None,
        description="folder in which an update is kept until the broker has confirmed it, so that a"
        " client that is restarted sends it instead of training again",
    )
    gpu: str | None = Field(
        None,
        description="graphics cards that the task's framework may see: a number, several apart by"
        " commas, or none (default: all; memory is taken as needed, so clients may share a card)",
    )
    training_limit_s: float | None = Field(
        None,
        gt=0,
        description="a training that takes longer is taken for one that hangs, and a supervisor"
        " that watches (docs/deploy.md) restarts this client",
    )
    verify_keys: str | None = Field(
        None,
        description="public keys of the coordinator; only what is signed with one of them is"
        " believed; `broker-config` writes it",
    )
    encrypt_key: str | None = Field(
        None,
        description="public key that whatever is sent is encrypted to; `broker-config` writes it",
    )
    keeper_key: str | None = Field(
        None,
        description="public key of the keeper; with it only masked updates leave this site;"
        " `broker-config` writes it",
    )
    least_together: int | None = Field(
        None,
        ge=2,
        description="refuse a federation in which sums of fewer clients than this are read",
    )
    record_privacy: str | None = Field(
        None,
        description="make all that leaves this site differentially private in each of its records,"
        " as epsilon=1,delta=1e-5,steps=30,examples=200 and perhaps clip=1: noise for so many"
        " gradient steps; the count is kept in --state-dir",
    )
    privacy_limit: str | None = Field(
        None,
        description="the most that all runs together may claim, as epsilon=8,delta=1e-5; what they"
        " have claimed is kept in --state-dir, and a run beyond it, or that promises nothing, is"
        " refused",
    )
    stay: bool = Field(
        False, description="serve the federation's next runs too, instead of ending with this one"
    )

    metrics_port: MetricsPort = Field(
        0,
        ge=0,
        le=65535,
        description="port on which Prometheus finds metrics, at /metrics; 0 or off for none",
    )

    @classmethod
    def of_this_worker(cls, environment: dict[str, Any]) -> dict[str, Any]:
        """Without the fleet, if its own bundle makes this an enrolled site.

        systemd reads a fleet's bundle for all its units, and then that of the site.
        """
        fleet, client = environment.get("fleet"), environment.get("client")
        url = environment.get("broker_url")
        if fleet is None or not client or not url:
            return environment
        try:
            user = BrokerUrl.parse(url).user
        except ConfigError:
            return environment  # which is said later
        if client == user != fleet:
            return environment | {"fleet": None}
        return environment

    @field_validator("gpu")
    @classmethod
    def _names_cards(cls, words: str | None) -> str | None:
        return None if words is None else check_words(words)

    @model_validator(mode="after")
    def _has_places(self) -> Self:
        if self.virtual is None:
            return self
        if self.fleet is None:
            raise ValueError("--virtual needs --fleet, whose places the clients take")
        if self.client is not None:
            raise ValueError("--virtual takes any free places: leave --client out")
        return self

    @model_validator(mode="after")
    def _can_count(self) -> Self:
        """What is spent is one site's, and has to be found again."""
        try:
            self.record_terms, self.limit  # noqa: B018
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if self.record_privacy is None and self.privacy_limit is None:
            return self
        if self.state_dir is None:
            raise ValueError(NO_FOLDER)
        if self.virtual is not None or (self.fleet is not None and self.client is None):
            raise ValueError(
                f"{RECORD_PRIVACY} and {PRIVACY_LIMIT} count what one site spends, and a slot of a"
                " fleet may be another's after a restart: name it, with --client FLEET.NUMBER"
            )
        return self

    def check_keys(self) -> None:
        """Raise ConfigError if a limit would have to believe what anybody could have written."""
        if self.privacy_limit is not None and not (self.record_privacy or self.verify_keys):
            raise ConfigError(
                f"{PRIVACY_LIMIT} believes what runs promise, so it needs the coordinator's keys"
                " (--verify-keys, which a bundle has): anybody could promise without"
            )

    @property
    def record_terms(self) -> RecordPrivacy | None:
        """What ``record_privacy`` says. Raises ConfigError."""
        return RecordPrivacy.parse(self.record_privacy) if self.record_privacy else None

    @property
    def limit(self) -> PrivacyLimit | None:
        """What ``privacy_limit`` says. Raises ConfigError."""
        return PrivacyLimit.parse(self.privacy_limit) if self.privacy_limit else None

    def mailboxes(self) -> tuple[str, ...]:
        """The queues to try, in order: the client's own, or the row of its fleet."""
        client = self.client or self.user
        if self.fleet not in (None, self.user):
            raise ConfigError(
                f"--fleet {self.fleet}: this bundle is that of {self.user}: use the bundle of"
                f" {self.fleet}, or --fleet {self.user}"
            )
        if self.fleet is not None and self.client is None:
            return tuple(mailbox(fleet_member(self.fleet, n)) for n in range(MAX_REPLICAS))
        if not is_client_id(client):
            raise ConfigError(f"--client {client}: a client id is lower case, digits, - and _")
        if self.fleet is not None and not client.startswith(f"{self.fleet}."):
            raise ConfigError(
                f"--client {client} is no place of the fleet {self.fleet}: name one, such as"
                f" {fleet_member(self.fleet, 0)}, or leave --client out to take any that is free"
            )
        if not speaks_for(self.user, client):
            raise ConfigError(
                f"--client {client}: this bundle is that of {self.user}, who may be no other"
                f" client: use the bundle of {client.partition('.')[0]}, or leave --client out"
            )
        return (mailbox(client),)

    @property
    def place(self) -> int | None:
        """The one place of a fleet that is asked for; None for any, and for an enrolled client."""
        number = (self.client or "").partition(".")[2]
        return int(number) if number.isdecimal() else None
