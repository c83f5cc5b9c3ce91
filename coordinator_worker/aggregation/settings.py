"""Settings of the algorithm."""

from typing import ClassVar, Literal

from pydantic import Field

from warren_shared.config.settings_model import Settings


class AlgorithmSettings(Settings):
    """Flags of the algorithm, one for each part; docs/algorithms.md has them all."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "the algorithm (docs/algorithms.md)": ("aggregator",),
        "how clients train": ("exchange", "learning_rate_schedule", "proximal", "local_clip_norm"),
    }

    aggregator: str = Field(
        "mean",
        description="what makes one delta of a round's updates, as NAME[:PARAMETER=VALUE,…], or"
        " one of your own as MODULE:ATTRIBUTE[,PARAMETER=VALUE,…] (docs/hooks.md)",
    )
    server_optimizer: str = Field(
        "sgd",
        description="how that delta moves the model, as NAME[:PARAMETER=VALUE,…], or your own",
    )
    clip_norm: float | None = Field(
        None, gt=0, description="bound of an update's L2 norm; a longer one counts shortened"
    )
    average: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="keep a running mean of the versions, of which each round leaves this share,"
        " and end the run with it",
    )
    exchange: Literal["all", "trainable"] = Field(
        "all",
        description="which tensors of the model travel: all, or those that train and the statistics"
        " of layers that train, the frozen rest being equal at every site (docs/adapters.md)",
    )
    learning_rate_schedule: str = Field(
        "constant",
        description="factor on the clients' learning rate by version, as NAME[:PARAMETER=VALUE,…]",
    )
    proximal: float = Field(
        0.0, ge=0, description="FedProx's mu: holds local training near the global model"
    )
    local_clip_norm: float | None = Field(
        None, gt=0, description="bound of the L2 norm of each gradient in local training"
    )
    local_epochs: int | None = Field(None, ge=1, description="instead of the tasks' own")
    local_steps: int | None = Field(
        None, ge=1, description="train for so many steps a round instead of epochs"
    )
    scaffold: bool = Field(
        False, description="correct the drift of local training by control variates (SCAFFOLD)"
    )
    downlink: Literal["raw", "int8", "2bit", "1bit"] = Field(
        "raw",
        description="encoding of new global models: raw, or what they moved by in so many bits a"
        " parameter (docs/compression.md)",
    )
