"""With which settings and programs versions are made: what the checkpoint remembers of them."""

import platform
from typing import Any, Final

import numpy as np

from coordinator_worker.aggregation.settings import AlgorithmSettings
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.training_state import Setup
from warren_shared.version import release

# Beside those of the algorithm; what only says when the run ends makes no other model.
ROUND: Final = (
    "quorum", "deadline_s", "min_quorum", "participation", "max_staleness", "staleness_exponent",
    "staleness_hinge", "max_examples", "max_update_norm", "config", "secure",
)  # fmt: skip
MAX_CHANGES: Final = 50  # a checkpoint is written whole each round


def setup_of(settings: CoordinatorSettings) -> dict[str, Any]:
    """``settings`` that make the model, and the programs that do."""
    names = (*AlgorithmSettings.model_fields, *ROUND)
    given = settings.model_dump(mode="json", include=set(names))
    told = {name: given[name] for name in names if given[name] is not None}
    trust = {
        "signed": settings.signing_keys is not None,
        "sealed": settings.decrypt_keys is not None,
    }
    return {"settings": told, "trust": trust, "software": software()}


def software() -> dict[str, str]:
    """What runs here."""
    return {"warren": release(), "python": platform.python_version(), "numpy": np.__version__}


def since(setup: tuple[Setup, ...], first: int, now: Setup) -> tuple[Setup, ...]:
    """``setup`` with ``now`` behind it from version ``first`` on, if it is another.

    Of more than MAX_CHANGES the first is kept, and the newest.
    """
    if setup and {name: value for name, value in setup[-1].items() if name != "version"} == now:
        return setup
    longer = (*setup, {"version": first, **now})
    return longer if len(longer) <= MAX_CHANGES else (longer[0], *longer[2:])
