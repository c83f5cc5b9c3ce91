"""An update whose numbers mean nothing to anybody: clipped, made integers, and masked.

What takes the mask off, its seed, goes to the keeper alone, and before the update: an update whose
seed was lost would be in a sum that nobody can read (docs/secure-aggregation.md).
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from client_worker.privacy.terms import Refused
from client_worker.settings import ClientSettings
from client_worker.training.clipping import clip
from warren_shared.errors import ConfigError, Rejected
from warren_shared.observability.log import Log
from warren_shared.privacy.mask import FIGURES, add_mask, new_seed
from warren_shared.protocol.codec import Body, encode
from warren_shared.protocol.encryption import SEEDS, UpdateEncryptor
from warren_shared.protocol.masking import (
    NO_FIGURES,
    check_weights,
    code_of,
    names_digest,
    names_of,
    terms_digest,
    weight_integers,
)
from warren_shared.protocol.messages import FigureNames, MaskTerms, ModelManifest, Seed
from warren_shared.tensors.layout import Buffer, Weights
from warren_shared.tensors.masked_figures import MOST, Told, figures_of
from warren_shared.tensors.masked_figures import encode as encode_figures
from warren_shared.tensors.ring import dtype_of
from warren_shared.tensors.update import Update

log = Log(__name__)

LEAST: Final = 2


@dataclass(frozen=True)
class Masked:
    """An update as it travels, and what the keeper gets."""

    buffer: Buffer
    figures: FigureNames | None
    seed: Seed


class Masker:
    """What this client demands of masks; ``least``: no sum of fewer clients shall be read."""

    def __init__(
        self, federation: str, sealer: UpdateEncryptor | None, least: int | None, *, is_ready: bool
    ) -> None:
        self._federation = federation
        self._sealer = sealer
        self._least = least or LEAST
        self._is_ready = is_ready

    @classmethod
    def of(cls, settings: ClientSettings) -> Self:
        """As ``settings`` say; raises ConfigError."""
        told = (settings.keeper_key, settings.federation, settings.user)
        sealer = UpdateEncryptor.of(*told, SEEDS)
        if settings.least_together is not None and sealer is None:
            raise ConfigError(
                "--least-together needs the key of a keeper, and the bundle has none: ask for one"
                " of a federation that masks updates"
            )
        is_ready = bool(settings.verify_keys and settings.encrypt_key)
        return cls(settings.federation, sealer, settings.least_together, is_ready=is_ready)

    def check(self, manifest: ModelManifest) -> None:
        """Raise Refused if an update to this model would not be as hidden as it has to be."""
        terms = manifest.secure
        if terms is None:
            if self._sealer is not None:
                raise Refused(
                    "this client's bundle names a keeper, so its updates are masked, and the"
                    " coordinator asks for them in clear: start it with --secure"
                )
            return
        if self._sealer is None:
            raise Refused(
                "the federation masks updates, and this client's bundle names no keeper: ask for"
                " the newest bundle"
            )
        if not self._is_ready:
            raise Refused(
                "masked updates need the coordinator's keys (WARREN_VERIFY_KEYS and"
                " WARREN_ENCRYPT_KEY): use the bundle as `broker-config` wrote it"
            )
        if terms.keeper != self._sealer.key_id:
            raise Refused(
                f"the federation names the keeper {terms.keeper}, and this client's bundle"
                f" {self._sealer.key_id}: ask which one is right"
            )
        if terms.least < self._least:
            raise Refused(
                f"the federation reads sums of {terms.least} clients, and this one wants"
                f" {self._least} or more (--least-together): raise least= at the coordinator"
            )
        try:
            check_weights(terms.weights)
        except ConfigError as error:
            raise Refused(f"the federation's {error}: a sum would tell of single updates") from None
        if len(terms.weights) <= manifest.max_staleness:
            raise Refused("the federation names no weights for all late updates")

    def mask(
        self, delta: Weights, update: Update, manifest: ModelManifest, client: str, transfer: str
    ) -> Masked:
        """What is sent of ``update``; ``delta``, its weights, are clipped in place.

        Raises:
            Rejected: it is not finite; a masked one could not be taken out of the sum.
        """
        terms = _terms(manifest)
        length = clip(delta, terms.clip)
        if length > terms.clip:
            log.info(
                "update_clipped",
                "the update has a norm of %.3g, and counts shortened to %.3g (clip= of --secure)",
                length,
                terms.clip,
                client=client,
            )
        is_private = manifest.privacy is not None
        told = None if is_private else _told(update)
        tail = encode_figures(told, terms.limb, terms.ring) if told is not None else None
        names = names_of(figures_of(told)) if told is not None else None
        code = code_of(terms, delta.layout, manifest.run)
        weight = weight_integers(terms, update.num_examples)
        core = code.elements + len(weight)
        ring = np.zeros(core + (tail.size if tail is not None else 0), dtype_of(terms.ring))
        factor = min(update.num_examples, terms.examples) / terms.examples
        code.encode(delta, factor, ring[: code.elements])
        ring[code.elements : core] = weight
        key = new_seed()
        add_mask(ring[:core], key)
        if tail is not None:
            ring[core:] = tail
            add_mask(ring[core:], key, stream=FIGURES)
        seed = Seed(
            federation=self._federation,
            run=manifest.run,
            client=client,
            base_version=manifest.version,
            transfer=transfer,
            layout=delta.layout.digest,
            elements=core,
            figures=names_digest(names or NO_FIGURES),
            figure_elements=tail.size if tail is not None else 0,
            model=manifest.content or "0" * 64,
            terms=terms_digest(terms, manifest.privacy),
            seed=key.hex(),
        )
        return Masked(ring.view(np.uint8), names, seed)

    def sealed(self, seed: Seed) -> Body:
        """The seed as only the keeper can read it."""
        if self._sealer is None:
            raise RuntimeError("a seed without a keeper")
        return self._sealer.seal(encode(seed))


def _terms(manifest: ModelManifest) -> MaskTerms:
    if manifest.secure is None:
        raise RuntimeError("an update in clear is not masked")
    return manifest.secure


def _told(update: Update) -> Told:
    if update.num_examples > MOST:
        raise Rejected("examples", f"{update.num_examples} examples are more than {MOST}")
    nan = dict.fromkeys(update.not_finite, float("nan"))
    return Told(update.num_examples, {**update.metrics, **nan}, update.evaluation)
