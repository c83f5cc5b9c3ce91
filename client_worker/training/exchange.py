"""Which of a model's tensors travel between a site and its coordinator.

With ``all`` every tensor does that can be averaged and is not the site's own. With ``trainable``
what is frozen stays as well: every site has it already, which a digest in the federation's fixed
state makes sure of (`warren_shared.tensors.frozen`).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from warren_shared.errors import ConfigError
from warren_shared.tensors.description import federated
from warren_shared.tensors.layout import Array, Layout

ALL: Final = "all"
TRAINABLE: Final = "trainable"  # that train, and the statistics of layers that train

T = TypeVar("T")


@dataclass(frozen=True)
class Exchange:
    """The ``places`` of the tensors that travel, among all of ``get_weights()``; their layout."""

    places: tuple[int, ...]
    layout: Layout

    @classmethod
    def without(cls, model: Any, arrays: Sequence[Array], staying: Sequence[int]) -> "Exchange":
        """All of the model's ``arrays`` but those at the places ``staying``."""
        layout = federated(model, arrays, staying)
        return cls(tuple(p for p in range(len(arrays)) if p not in set(staying)), layout)

    def of(self, each: Sequence[T]) -> list[T]:
        """Of one thing for each tensor of the model, those of the tensors that travel."""
        return [each[place] for place in self.places]

    def into(self, whole: Sequence[T], travelled: Sequence[T]) -> list[T]:
        """``whole`` with ``travelled`` in its places."""
        found = list(whole)
        for place, one in zip(self.places, travelled, strict=True):
            found[place] = one
        return found


def not_averaged(model: Any, trained: Collection[int]) -> str:
    """Why the mean of the sites' low-rank adapters is none of their models; empty if it is.

    ``trained`` are the places of the tensors that train and travel. A model may have a method
    ``adapters()`` that returns name, place of A and place of B of each.
    """
    for name, a, b in _adapters(model):
        if a in trained and b in trained:
            return (
                f"both A and B of the LoRA of {name} train, and the mean of products is not the"
                " product of means: freeze A, with client_worker.enable_lora,"
                " lora_kernel_a.trainable = False or lora_A.requires_grad_(False)"
            )
    return ""


def check_adapters(model: Any, arrays: Sequence[Array], trained: Collection[int]) -> None:
    """Raise ConfigError if a low-rank adapter of ``model`` cannot be averaged, or cannot learn."""
    if words := not_averaged(model, trained):
        raise ConfigError(f"--exchange trainable: {words}")
    for name, a, b in _adapters(model):
        if {a, b} & {*trained} and not arrays[a].any() and not arrays[b].any():
            raise ConfigError(
                f"--exchange trainable: A and B of the LoRA of {name} are all zero, as in a .keras"
                " that was saved with LoRA, and would stay so: load the weights into a model"
                " without LoRA, then call client_worker.enable_lora"
            )


def _adapters(model: Any) -> Iterable[tuple[str, int, int]]:
    known = getattr(model, "adapters", None)
    found: Iterable[tuple[str, int, int]] = known() if known is not None else ()
    return found
