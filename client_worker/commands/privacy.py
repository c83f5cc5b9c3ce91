"""``client-worker privacy``: what runs have claimed of this site's privacy."""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from client_worker.privacy.ledger import Claim, read, total
from client_worker.privacy.terms import PrivacyLimit
from warren_shared import strict_json
from warren_shared.config import settings
from warren_shared.config.settings_model import Settings
from warren_shared.errors import ConfigError
from warren_shared.service import health_check

ABOUT = (
    "Print what each run was promised and what it has spent of this site's privacy, and the total;"
    " read from the folder of the client, which may run meanwhile."
)
DEFAULT_DELTA = 1e-5


class LedgerSettings(Settings):
    """What ``client-worker privacy`` can be told."""

    SECTION: ClassVar[str] = "client"

    state_dir: Path = Field(description="folder of the client, with its ledger")
    privacy_limit: str | None = Field(
        None, description="the limit that the client has, as epsilon=8,delta=1e-5"
    )


def run(argv: list[str]) -> None:
    """Print the ledger."""
    own = health_check.json_flag("client-worker privacy")
    asked, words = own.parse_known_args(argv)
    given, _ = settings.load(LedgerSettings, description=ABOUT, argv=words, own=own)
    limit = PrivacyLimit.parse(given.privacy_limit) if given.privacy_limit else None
    if not given.state_dir.is_dir():
        raise ConfigError(f"--state-dir {given.state_dir}: there is no such folder")
    claims = sorted(read(given.state_dir), key=lambda claim: (claim.first, claim.run))
    report = _report(claims, limit)
    print(strict_json.dumps(report) if asked.json else _text(claims, report))  # noqa: T201


def _report(claims: list[Claim], limit: PrivacyLimit | None) -> dict[str, Any]:
    delta = limit.delta if limit else min((claim.delta for claim in claims), default=DEFAULT_DELTA)
    whole = total(claims)
    return {
        "runs": [
            {
                **claim.model_dump(exclude_none=True),
                "epsilon_spent": _number(total([claim]).epsilon(claim.delta)),
            }
            for claim in claims
        ],
        "total": {
            "unit": whole.unit,
            "mu": whole.mu,
            "epsilon": _number(whole.epsilon(delta)),
            "delta": delta,
        },
        "limit": {"epsilon": limit.epsilon, "delta": limit.delta} if limit else None,
    }


def _number(epsilon: float) -> float | None:
    """None for an infinite one, which JSON does not know."""
    return epsilon if epsilon < float("inf") else None


def _text(claims: list[Claim], report: dict[str, Any]) -> str:
    if not claims:
        return "no run has claimed anything"
    head = ["federation", "run", "unit", "promised", "spent", "epsilon spent", "from", "to"]
    rows = [head] + [
        [
            claim.federation,
            claim.run,
            claim.unit,
            f"epsilon {claim.epsilon:g}, delta {claim.delta:g}",
            f"{claim.spent} of {claim.steps} steps" if claim.steps else "all",
            _shown(line["epsilon_spent"]),
            claim.first[:16],
            claim.last[:16],
        ]
        for claim, line in zip(claims, report["runs"], strict=True)
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    whole, limit = report["total"], report["limit"]
    said = f"in total: epsilon {_shown(whole['epsilon'])} for each {whole['unit']}"
    if limit:
        said += f", of {limit['epsilon']:g} that the limit allows"
    return "\n".join([*lines, f"{said}, at delta {whole['delta']:g}"])


def _shown(epsilon: float | None) -> str:
    return "without bound" if epsilon is None else f"{epsilon:.4g}"
