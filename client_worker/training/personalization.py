"""What a client has beside the global model, and keeps from round to round.

- *local layers* (FedPer, Arivazhagan et al. 2019): chosen tensors that are trained with the others
  and are neither sent nor overwritten;
- the *local model* that an update rule mixes with the global one
  (`client_worker.training.update_rules`);
- *Ditto*'s personal model v (Li et al. 2021, algorithm 1), trained beside the global one:
  v <- v - eta * (g(v) + lambda * (v - w)), w being the global model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeVar

import numpy as np

from client_worker.training.update_rules import UpdateRule, replace
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Array, Layout, Tensor, Weights

T = TypeVar("T")


@dataclass(frozen=True)
class Personalization:
    """Which of these a client has; ``local`` are positions among the model's tensors.

    ``apart`` are those of ``local`` that no user chose: integers and the like, which cannot travel.
    """

    update_rule: UpdateRule = replace
    local: tuple[int, ...] = ()
    ditto: float = 0.0
    apart: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.ditto >= 0 and isfinite(self.ditto)):
            raise ConfigError(f"ditto={self.ditto}: Ditto's lambda is 0 (off) or more")

    def __bool__(self) -> bool:
        chosen = set(self.local) > set(self.apart)
        return self.update_rule is not replace or chosen or self.ditto > 0


class Personal:
    """The tensors behind it, all of them full models' lists of arrays (or those of ``local``).

    ``own`` are the local layers; ``previous`` the local model after the last round, if the rule
    needs it; ``ditto`` the personal model. The latter two are None before the first round.
    """

    def __init__(self, kinds: Personalization, arrays: Sequence[Array]) -> None:
        self.kinds = kinds
        self._initial = [arrays[place].copy() for place in kinds.local]
        self._whole = Layout.stored(arrays)  # not the arrays, which many clients' models may share
        self.forget()

    def forget(self) -> None:
        """Begin as on the first day: a new run has nothing to do with the last one."""
        self.own = [array.copy() for array in self._initial]
        self.previous: list[Array] | None = None
        self.ditto: list[Array] | None = None

    @property
    def layout(self) -> Layout | None:
        """Layout of ``state`` once there is any; None if nothing is personal."""
        if not self.kinds:
            return None
        models = (self.kinds.update_rule is not replace) + (self.kinds.ditto > 0)
        own = Layout.stored(self._initial).tensors if self._initial else ()
        tensors = (*own, *self._whole.tensors * models)
        if not tensors:
            return None
        return Layout(tuple(Tensor(str(n), t.shape, t.dtype) for n, t in enumerate(tensors)))

    @property
    def state(self) -> Weights | None:
        """Everything, in one buffer; None if there is nothing, or no round was trained yet."""
        if self.layout is None or not self._complete:
            return None
        arrays = [*self.own, *(self.previous or []), *(self.ditto or [])]
        kept = Weights.uninitialized(Layout.stored(arrays))
        for target, array in zip(kept, arrays, strict=True):
            np.copyto(target, array)
        return kept

    def recall(self, state: Weights) -> None:
        """Take over what ``state`` once returned; it must be of ``layout``."""
        arrays = [array.copy() for array in state]
        many = len(self._whole.tensors)
        self.own, arrays = arrays[: len(self.own)], arrays[len(self.own) :]
        if self.kinds.update_rule is not replace:
            self.previous, arrays = arrays[:many], arrays[many:]
        if self.kinds.ditto:
            self.ditto = arrays

    @property
    def _complete(self) -> bool:
        return (self.kinds.update_rule is replace or self.previous is not None) and (
            not self.kinds.ditto or self.ditto is not None
        )

    def filled(self, shared: Sequence[Array]) -> list[Array]:
        """The whole model: ``shared`` tensors and, in their places, a copy of the own ones."""
        if not self.kinds.local:
            return list(shared)
        of_all, of_own = iter(shared), iter(self.own)
        return [
            next(of_own).copy() if place in self.kinds.local else next(of_all)
            for place in range(len(self._whole.tensors))
        ]

    def shared(self, each: Sequence[T]) -> list[T]:
        """Of a whole model's arrays, or of what there is for each of them, those that are sent."""
        return [one for place, one in enumerate(each) if place not in self.kinds.local]

    def begun(self, whole: Sequence[Array], frozen: Sequence[int] = ()) -> list[Array]:
        """Where training begins if ``whole`` is the global model with the own tensors.

        What is ``frozen``, by place, is not mixed: rounding would change it.
        """
        if self.previous is None or self.kinds.update_rule is replace:
            return list(whole)
        return [
            new
            if place in self.kinds.local or place in frozen
            else np.asarray(self.kinds.update_rule(local, new), new.dtype)
            for place, (local, new) in enumerate(zip(self.previous, whole, strict=True))
        ]

    def trained(self, arrays: Sequence[Array]) -> None:
        """Remember what of the trained model's ``arrays`` is this client's own."""
        self.own = [np.array(arrays[place]) for place in self.kinds.local]
        if self.kinds.update_rule is not replace:
            self.previous = [np.array(array) for array in arrays]


def places(local: Sequence[str | int], model: Any, count: int) -> tuple[int, ...]:
    """Positions of the tensors that ``local`` names among the model's ``count``.

    A number is a position, negative from the end; a name is that of a tensor or of the layer that
    holds it, as the model's ``weight_names()`` says: ``dense_1`` finds ``model/dense_1/kernel``. Of
    names with dots, as PyTorch's, one that begins them is that of a module and finds what is in it.

    Raises ConfigError for one that the model has not, and if nothing would be shared.
    """
    known = getattr(model, "weight_names", None)
    names: list[str] = list(known()) if known is not None else []
    found: set[int] = set()
    for one in local:
        if isinstance(one, int):
            matching = [one % count] if -count <= one < count else []
        else:
            inside = [n for n, name in enumerate(names) if name.startswith(f"{one}.")]
            matching = inside or [n for n, name in enumerate(names) if named(one, name)]
        if not matching:
            there = ", ".join(names) or "without names: give positions"
            raise ConfigError(f"local={one!r}: the model has {count} tensors, {there}")
        found.update(matching)
    if found and len(found) == count:
        raise ConfigError("all of the model's tensors are local: there is nothing to federate")
    return tuple(sorted(found))


def named(one: str, name: str) -> bool:
    """Whether ``one`` means what is called ``name``: all of it, its end, or one of its words."""
    words = re.split("[/.]", name)
    return name == one or name.endswith((f"/{one}", f".{one}")) or one in words
