"""What is said of a model besides its weights, before they are there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from warren_shared.protocol.messages import LocalTraining, MaskTerms, PrivacyTerms, Setting
from warren_shared.tensors.compression import RAW


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHeader:
    """The fields of ``ModelManifest`` that its publisher chooses; they mean what they do there."""

    federation: str
    run: str
    version: int
    config: Mapping[str, Setting] = field(default_factory=dict)
    local: LocalTraining = field(default_factory=LocalTraining)
    max_staleness: int = 0
    participation: float = 1.0
    final: bool = False
    fixed_state: Mapping[str, str] = field(default_factory=dict)
    uplink: str = RAW
    downlink: str = RAW
    privacy: PrivacyTerms | None = None
    secure: MaskTerms | None = None
