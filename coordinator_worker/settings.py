"""What ``coordinator-worker`` can be told."""

import re
from math import isfinite
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, SecretStr, TypeAdapter, ValidationError, model_validator

from coordinator_worker.aggregation.settings import AlgorithmSettings
from warren_shared import weights_file
from warren_shared.config.observability import MetricsPort, ObservingSettings
from warren_shared.config.settings import WorkerSettings
from warren_shared.config.settings_model import Words
from warren_shared.errors import ConfigError
from warren_shared.naming import COORDINATOR_USER
from warren_shared.protocol.keys import key_id, read_keys
from warren_shared.protocol.messages import MAX_EXAMPLES, Config, Setting
from warren_shared.tensors import frozen

# What a coordinator with a --parent is not asked.
SAID_ABOVE: Final = frozenset(
    {"rounds", "target", "patience", "average", "scaffold", "learning_rate_schedule", "proximal"}
    | {"local_clip_norm", "local_epochs", "local_steps", "downlink", "full_model_every"}
)
CONFIG: Final[TypeAdapter[dict[str, Setting]]] = TypeAdapter(Config, config=ConfigDict(strict=True))


class CoordinatorSettings(AlgorithmSettings, ObservingSettings, WorkerSettings):
    """Flags, environment and defaults of the coordinator."""

    SECTION: ClassVar[str] = "coordinator"
    BUNDLE_OF = (COORDINATOR_USER, "the coordinator")
    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "rounds": ("quorum", "deadline_s", "min_quorum", "participation", "clients"),
        "bytes (docs/compression.md)": ("uplink", "downlink", "full_model_every"),
        "privacy (docs/privacy.md)": ("privacy",),
        "secure aggregation (docs/secure-aggregation.md)": (
            *("secure", "keeper_key", "keeper_verify_key"),
        ),
        "late updates": ("max_staleness", "staleness_exponent", "staleness_hinge"),
        "the end of the run": ("rounds", "target", "monitor", "patience", "evaluate"),
        "what is kept, and what clients are told": (
            *("checkpoint_dir", "keep_versions", "keep_every", "initial_model", "config"),
        ),
        "a federation above": ("parent",),
        "metrics and traces": ("tensorboard", "mlflow", "wandb", "client_curves"),
        "trust": (
            *("signing_keys", "decrypt_keys", "max_examples", "max_update_norm"),
            *("max_model_bytes", "max_evaluation_share"),
        ),
    }

    COMMON: ClassVar[tuple[str, ...]] = (
        *("quorum", "deadline_s", "participation", "max_staleness", "rounds", "target", "evaluate"),
        *("aggregator", "server_optimizer", "checkpoint_dir", "initial_model", "config"),
    )

    quorum: int = Field(2, ge=1, description="aggregate as soon as this many updates are whole")
    rounds: int | None = Field(None, ge=1, description="stop after this many rounds")
    target: str | None = Field(
        None,
        description="stop when a metric that the clients report, averaged by their numbers of"
        " examples, gets there: NAME>=VALUE or NAME<=VALUE, such as eval_loss<=0.1",
    )
    clients: int | None = Field(
        None, ge=1, description="how many clients the federation has; `broker-config` writes it"
    )
    signing_keys: SecretStr | None = Field(
        None, description="what models are signed with; `broker-config` writes it"
    )
    decrypt_keys: SecretStr | None = Field(
        None, description="what clients' updates are decrypted with; `broker-config` writes it"
    )
    monitor: str | None = Field(
        None,
        description="metric by which the best version is told, as NAME:max or NAME:min, such as"
        " eval_auc:max; its model is kept as best.npz beside the checkpoint",
    )
    patience: int | None = Field(
        None, ge=1, description="with --monitor: stop after so many rounds without a better one"
    )
    evaluate: str | None = Field(
        None,
        description="program that is given each newest model as FILE.npz and prints its figures as"
        ' a JSON object, such as "client-worker evaluate --task TASK --model"; runs beside rounds',
    )
    deadline_s: float | None = Field(
        None, gt=0, description="close a round that has lasted so many seconds with what is there"
    )
    min_quorum: int = Field(
        1, ge=1, description="with --deadline-s: but not with fewer updates than this"
    )
    participation: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the clients that train from each version, drawn by a hash; below 1 it"
        " needs --deadline-s, after which all may",
    )
    uplink: Literal["raw", "int8", "2bit", "1bit", "0.25bit"] = Field(
        "raw",
        description="encoding of the clients' updates: raw, or so many bits a parameter"
        " (docs/compression.md)",
    )
    full_model_every: int | None = Field(
        None,
        ge=1,
        description="with --downlink: send the whole model with each version that this divides",
    )
    privacy: str | None = Field(
        None,
        description="differential privacy of each client, as NAME:PARAMETER=VALUE,…: correlated or"
        " gaussian, with epsilon, delta, clip, contributions and distance",
    )
    secure: str | None = Field(
        None,
        description="take masked updates, of which only sums can be read, with the help of a"
        " keeper-worker elsewhere: clip=NORM[,examples=N][,least=3][,ring=32]",
    )
    keeper_key: str | None = Field(
        None, description="the keeper's public key for seeds; `broker-config` writes it"
    )
    keeper_verify_key: str | None = Field(
        None, description="what the keeper signs with; `broker-config` writes it"
    )
    max_staleness: int = Field(
        0, ge=0, description="accept updates up to this many versions late, at less weight"
    )
    staleness_exponent: float = Field(
        0.5, ge=0, description="a: an update s versions late weighs (1+s)^-a of a fresh one"
    )
    staleness_hinge: int | None = Field(
        None,
        ge=0,
        description="b: an update up to b versions late weighs as much as a fresh one, and one s"
        " versions late 1/(a(s-b)+1) of it",
    )
    max_examples: int = Field(
        10_000_000,
        ge=1,
        le=MAX_EXAMPLES,
        description="reject an update that claims more examples: they are its weight, and one"
        " client's word for it",
    )
    max_update_norm: str = Field(
        "auto",
        description="reject an update with a larger L2 norm: a number, auto (a hundred times what"
        " the model and the last rounds' updates have: only what is absurd), or off",
    )
    max_model_bytes: int | None = Field(
        None,
        ge=1,
        description="reject initial weights of more bytes; without it, of more than a quarter of"
        " the checkpoint's free disk or of the memory",
    )
    max_evaluation_share: float = Field(
        0.5,
        ge=0.05,
        le=1,
        description="of the metrics of three clients or more none weighs more than this share,"
        " however many examples it claims; --target has to be met by a quorum and also without any"
        " one of them. 1 believes every client",
    )
    checkpoint_dir: Path = Field(
        Path("checkpoint"), description="folder of the checkpoint; a run goes on where it stopped"
    )
    keep_versions: int = Field(
        5,
        ge=0,
        description="keep the model of so many newest versions in the checkpoint folder, for"
        " `versions`, `export`, `diff` and `rollback`; the best one is kept in any case",
    )
    keep_every: int | None = Field(
        None, ge=1, description="keep every so many versions' model for good, too: 100, 200, …"
    )
    audit_rotate_bytes: int | None = Field(
        None,
        ge=65536,
        description="begin a new file of the audit log when it has so many bytes; without it only"
        " `audit --rotate` and logrotate do",
    )
    initial_model: Path | None = Field(
        None,
        description="initial weights as .npz (one array per tensor in order) or .safetensors;"
        " without it the first client that joins is asked for its own",
    )
    config: Words = Field(
        (), description="NAME=VALUE that every client's task is told with the model; repeatable"
    )

    parent: Path | None = Field(
        None,
        description="bundle of a client of another federation: this coordinator is that client, and"
        " a round of its own clients is one update there (docs/scaling.md)",
    )
    metrics_port: MetricsPort = Field(
        9464,
        ge=0,
        le=65535,
        description="port on which Prometheus finds metrics, at /metrics; 0 or off for none. If the"
        " default is taken there are none, and a line in the log says so",
    )
    mlflow: str | None = Field(
        None,
        description="tracking URI of MLflow, such as http://host:5000 or sqlite:///mlflow.db, that"
        " gets settings, figures and the best model; needs the extra `mlflow`",
    )
    wandb: str | None = Field(
        None,
        description="project of Weights & Biases that gets the same; WANDB_MODE=offline keeps it"
        " in the checkpoint folder; needs the extra `wandb`",
    )
    tensorboard: Path | None = Field(
        None,
        description="folder to which each round's figures are written for TensorBoard, as"
        " FOLDER/RUN; needs the extra `tensorboard`",
    )
    client_curves: bool = Field(
        False,
        description="give --tensorboard, --mlflow and --wandb each client's own figures too, of the"
        " first 100 clients",
    )

    @property
    def keeper(self) -> str | None:
        """The id of the keeper's key for seeds; raises ConfigError if what is there is none."""
        if not self.keeper_key or not self.keeper_verify_key:
            return None
        (raw,) = read_keys("WARREN_KEEPER_KEY", self.keeper_key, bytes)
        return key_id(raw)

    @model_validator(mode="after")
    def _can_close(self) -> Self:
        if self.participation < 1 and self.deadline_s is None:
            raise ValueError(
                "--participation below 1 needs --deadline-s, or a round for which too few clients"
                " were drawn would never close"
            )
        if self.parent is not None and (said := self.model_fields_set & SAID_ABOVE):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(said))
            raise ValueError(
                f"--parent: the federation above says when the run ends, how clients train and how"
                f" models are sent; leave out {flags}"
            )
        if self.full_model_every is not None and self.downlink == "raw":
            raise ValueError("--full-model-every needs --downlink: else every model is sent whole")
        if self.min_quorum > self.quorum:
            raise ValueError(f"--min-quorum {self.min_quorum} is more than --quorum {self.quorum}")
        if self.patience is not None and self.monitor is None:
            raise ValueError("--patience needs --monitor, the metric that is to get better")
        if self.client_curves and not (self.tensorboard or self.mlflow or self.wandb):
            raise ValueError(
                "--client-curves needs --tensorboard, --mlflow or --wandb to draw them"
            )
        if self.client_curves and (self.privacy or self.secure):
            raise ValueError(
                "--client-curves: with --privacy or --secure no client's own figures are told:"
                " leave it out"
            )
        needed = self.quorum if self.deadline_s is None else self.min_quorum
        if self.clients is not None and needed > self.clients:
            raise ValueError(
                f"--quorum {self.quorum} needs {needed} clients and the federation has"
                f" {self.clients}: lower it, or enlarge the federation with `broker-config apply`"
            )
        return self


def parse_config(words: tuple[str, ...]) -> dict[str, Setting]:
    """``NAME=VALUE`` words as settings; numbers and true/false are read as such."""
    config: dict[str, Setting] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--config {word}: write it as NAME=VALUE")
        config[name] = _value(text)
    try:
        return CONFIG.validate_python(config)
    except ValidationError:
        raise ConfigError(
            "--config: at most 64 settings, names of up to 128 characters, values of up to 1024"
        ) from None


def _value(text: str) -> Setting:
    if text in {"true", "false"}:
        return text == "true"
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text) if len(text) < 19 else text  # msgpack knows 64 bits
    try:
        number = float(text)
    except ValueError:
        return text
    # A NaN is never equal to itself, so clients would make their task again for every model.
    return number if isfinite(number) and "_" not in text else text


def read_initial_model(path: Path, exchange: str = "all") -> weights_file.Read:
    """Weights from a ``.npz`` or ``.safetensors``, in the model's order, and what it says of them.

    Raises ConfigError if it holds other tensors than a federation with this ``--exchange`` begins
    with.
    """
    named = f"--initial-model {path}"
    found = weights_file.read(path, named)
    if exchange == "all" and not frozen.is_whole(found.facts):
        raise ConfigError(
            f"{named} holds only the tensors that train: start with --exchange trainable"
        )
    if exchange == "trainable" and frozen.FACT not in found.facts:
        raise ConfigError(
            f"{named} does not say of which frozen weights it is, as a file of a whole model does"
            " not: with --exchange trainable give one that `client-worker export --exchange"
            f" trainable --task TASK --model {path} --to FILE` has made"
        )
    weights_file.check_finite(found.weights, named)
    return found
