"""A measured figure beside a peer's and the limit, and the same as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measured case against one peer; several peers of a case are several rows.

    Args:
        case: What was measured, such as ``10 clients × 40 MB``.
        unit: The unit of ``ours``, ``peer``, ``limit`` and ``spread``. Of a rate (``GB/s``) more is
            better, of anything else less.
        ours: Our median.
        peer: The peer's median on the same input, None if there is no peer or it did not run.
        limit: What the machine can do at best on the same input.
        peer_name: The peer, such as ``Flower deployed``; also names a peer that did not run.
        limit_name: The limit, such as ``raw client``.
        spread: Minimum and maximum of ours.
        peak_rss_bytes: Peak resident memory of the coordinator, or of whoever did the work.
        model_bytes: Size of the model that this memory is to be compared with.
        more: Anything else, by a name with its unit: ``cpu_s_per_gb``, ``peer_rss_bytes``, …
    """

    case: str
    unit: str
    ours: float
    peer: float | None = None
    limit: float | None = None
    peer_name: str = ""
    limit_name: str = ""
    spread: tuple[float, float] | None = None
    peak_rss_bytes: int | None = None
    model_bytes: int | None = None
    more: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def ratio_to_peer(self) -> float | None:
        """``ours / peer``."""
        return None if self.peer is None else self.ours / self.peer

    @property
    def ratio_to_limit(self) -> float | None:
        """``ours / limit``."""
        return None if self.limit is None else self.ours / self.limit


def as_json(row: Row) -> dict[str, Any]:
    """``row`` as it stands in the JSON file: memory only where it applies, ratios worked out."""
    record = asdict(row) | {
        "ratio_to_peer": row.ratio_to_peer,
        "ratio_to_limit": row.ratio_to_limit,
    }
    may_lack = ("peak_rss_bytes", "model_bytes", "spread", "more")
    return {k: v for k, v in record.items() if v not in (None, {}) or k not in may_lack}


def from_json(record: Mapping[str, Any]) -> Row:
    """The row that `as_json` wrote."""
    known = {k: v for k, v in record.items() if not k.startswith("ratio_to_")}
    if "spread" in known:
        known["spread"] = tuple(known["spread"])
    return Row(**known)
