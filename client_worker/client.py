"""The client of federated learning: trains a local model from a global one, on its own data."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, Protocol, cast

import numpy as np

from client_worker import scaffold
from client_worker.guide import LOCAL_STEPS, Guide, run_fit, takes_guide
from client_worker.personal import Personal, Personalization, places, weight_names
from client_worker.rules import UpdateRule, replace
from client_worker.scaffold import Control
from shared.errors import ConfigError
from shared.evaluation import Evaluation
from shared.layout import Array, Layout, Weights
from shared.messages import LocalTraining
from shared.update import Update

AS_THE_TASK_SAYS: Final = LocalTraining()


class TrainableModel(Protocol):
    """All that a model needs to take part; a Keras model is wrapped into one by itself.

    It may also have ``evaluate(data)``, which is asked what the global model is worth on held-out
    data and returns figures by name, or an Evaluation; and ``weight_names()``, one for each array.
    """

    def get_weights(self) -> Sequence[Array]:
        """Return the weights as float32 or float64 arrays, in an order that never changes."""
        ...

    def set_weights(self, weights: Sequence[Array], /) -> object:
        """Take over weights of the same shapes."""
        ...

    def fit(self, data: Any, learning_rate: float, /) -> Mapping[str, float] | None:
        """Train on ``data`` from the current weights; return metrics such as ``loss``.

        The metric ``local_steps`` says how many optimizer steps it took. A ``fit`` with a third
        parameter ``guide`` is given a Guide, which it must heed.
        """
        ...


class FederatedClient:
    """One participant: a model, its own data, and how fast it learns.

    ``model``: a Keras model, or anything with the methods of TrainableModel. ``data``: what the
    model is fitted on, usually ``(x, y)`` arrays, or a ``tf.data.Dataset`` of batches; it never
    leaves this object. ``learning_rate``: of the local optimizer. ``validation``: held-out data
    of the same form, on which each global model is evaluated. ``num_examples``: the weight of
    this client's updates; counted from ``data`` if not given.

    ``update_rule``: what becomes of the local model when a global one comes (`client_worker.rules`:
    ``replace``, ``interpolate(alpha)``). ``local``: tensors that stay here, by name or position.
    ``ditto``: lambda of a personal model trained beside the global one; 0 for none.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        learning_rate: float,
        *,
        validation: Any = None,
        num_examples: int | None = None,
        update_rule: UpdateRule = replace,
        local: Sequence[str | int] = (),
        ditto: float = 0.0,
    ) -> None:
        self.model = model
        self.data = data
        self.learning_rate = learning_rate
        self.validation = validation
        self.num_examples = num_examples if num_examples is not None else count_examples(data)
        if self.num_examples < 1:
            raise ConfigError(f"num_examples is {self.num_examples}; an update needs at least one")
        self._validation_examples: int | None = None
        self._trainable = _trainable(model, data)
        arrays = self._arrays()
        kinds = Personalization(update_rule, places(local, self._trainable, len(arrays)), ditto)
        if ditto and not takes_guide(self._trainable.fit):
            raise ConfigError("ditto: this model's fit takes no guide (see client_worker.guide)")
        self.personal = Personal(kinds, arrays)
        names = self.personal.shared(weight_names(self._trainable, len(arrays)))
        self.layout = Layout.of(self.personal.shared(arrays), names)
        self.control = Control(self.layout)

    @property
    def trainable(self) -> TrainableModel:
        """The model with the methods that are used of it; a Keras model's adapter."""
        return self._trainable

    @property
    def takes_guide(self) -> bool:
        """Whether training can be limited to a number of steps."""
        return takes_guide(self._trainable.fit)

    def layout_for(self, local: LocalTraining) -> Layout:
        """Layout of a global model that comes with ``local``, and of the updates to it."""
        return scaffold.with_controls(self.layout) if local.scaffold else self.layout

    def weights(self) -> Weights:
        """The local model's weights but for those that stay here, copied into one buffer."""
        return Weights.of(self.personal.shared(self._arrays()), self.layout)

    def initial(self, local: LocalTraining = AS_THE_TASK_SAYS) -> Weights:
        """What a federation that trains as ``local`` says can begin with."""
        return scaffold.longer(self.weights()) if local.scaffold else self.weights()

    def update(
        self, global_model: Sequence[Array], local: LocalTraining = AS_THE_TASK_SAYS
    ) -> None:
        """Make of the global model and the local one what the update rule says.

        A model may keep the arrays and train in place: views of the global model would change it.
        """
        start, _ = self._parts(global_model, local)
        self._set(self.personal.begun(self.personal.filled(start)))

    def train(
        self, global_model: Sequence[Array], local: LocalTraining = AS_THE_TASK_SAYS
    ) -> Update:
        """Train from ``global_model`` on the local data; return what that changed.

        The update's ``delta`` is trained minus global weights; its metrics are what ``fit``
        returned and, with ``validation``, ``eval_…``: the *global* model on the held-out data, and
        ``personal_…``: this client's own model after the round, if it has one. With
        ``local.scaffold`` control variates lie behind the weights, in the delta too.

        Raises ConfigError if the model cannot train as ``local`` says.
        """
        start, controls = self._parts(global_model, local)
        whole = self.personal.filled(start)
        self._set(whole)
        found = self.evaluation()
        metrics = {f"eval_{name}": v for name, v in found.metrics().items()} if found else {}
        begun = self.personal.begun(whole)
        if self.personal.kinds.update_rule is not replace:
            self._set(begun)
        figures = self._fit(Guide.of(local, whole, self._correction(controls)), local)
        said = figures.pop(LOCAL_STEPS, 0.0)
        steps = (round(said) if isfinite(said) else 0) or None
        arrays = self._arrays()
        trained = self.personal.shared(arrays)
        if difference := self.layout.difference(Layout.of(trained)):
            raise ConfigError(f"training changed the model's layout: {difference}")
        self.personal.trained(arrays)
        delta = Weights.uninitialized(self.layout_for(local))
        for changed, after, before in zip(delta, trained, start, strict=False):
            np.subtract(after, before, out=changed)
        if controls is not None:
            if steps is None:
                raise ConfigError("SCAFFOLD needs to know the steps behind an update: return them"
                                  f" from fit as the metric {LOCAL_STEPS!r}")  # fmt: skip
            moved = scaffold.split(delta, self.layout)[1]
            travel = steps * self.learning_rate * local.learning_rate_factor
            scaffold.change(moved, self.personal.shared(begun), trained, controls, travel)
            self.control.add(moved)
        metrics |= figures | self._train_personal(whole, local)
        return Update(delta, self.num_examples, metrics, steps, found)

    def withdraw(self, delta: Sequence[Array]) -> None:
        """Let an update with control variates not have counted: c_i goes back."""
        self._count(delta, -1.0)

    def count(self, delta: Sequence[Array]) -> None:
        """Let an update that an earlier process trained count: c_i goes on."""
        self._count(delta, 1.0)

    def evaluate(self) -> dict[str, float]:
        """Metrics of the local model's current weights on ``validation``; empty without any."""
        found = self.evaluation()
        return found.metrics() if found else {}

    def evaluation(self) -> Evaluation | None:
        """What the local model's current weights are worth on ``validation``; None without any.

        Figures that the model's ``evaluate`` returns are means over the validation's examples; a
        model that returns an Evaluation can be pooled with others' (`shared.evaluation`).
        """
        evaluate = getattr(self._trainable, "evaluate", None)
        if evaluate is None or self.validation is None:
            return None
        found = evaluate(self.validation)
        if isinstance(found, Evaluation):
            return found
        if self._validation_examples is None:
            self._validation_examples = count_examples(self.validation)
        return Evaluation(self._validation_examples, _figures(found))

    def _arrays(self) -> list[Array]:
        return [np.asarray(array) for array in self._trainable.get_weights()]

    def _set(self, arrays: Sequence[Array]) -> None:
        self._trainable.set_weights([array.copy() for array in arrays])

    def _parts(
        self, global_model: Sequence[Array], local: LocalTraining
    ) -> tuple[Weights, Weights | None]:
        """The global model's weights and, with SCAFFOLD, its control variates."""
        whole = Weights.of(global_model, self.layout_for(local))
        return scaffold.split(whole, self.layout) if local.scaffold else (whole, None)

    def _correction(self, controls: Weights | None) -> list[Array] | None:
        """Correction c - c_i of each tensor of the model; nothing corrects those that stay here."""
        if controls is None:
            return None
        corrections = iter(self.control.correction(controls))
        return [
            np.zeros_like(array) if place in self.personal.kinds.local else next(corrections)
            for place, array in enumerate(self._arrays())
        ]

    def _fit(self, guide: Guide, local: LocalTraining) -> dict[str, float]:
        rate = self.learning_rate * local.learning_rate_factor
        return _figures(run_fit(self._trainable.fit, self.data, rate, guide, guide.asked()))

    def _train_personal(self, whole: Sequence[Array], local: LocalTraining) -> dict[str, float]:
        """Train Ditto's model, if there is one; metrics of what this client has of its own."""
        kinds = self.personal.kinds
        if not kinds:
            return {}
        if kinds.ditto:
            common = self._arrays()
            self._set(self.personal.ditto or whole)
            asked = local.model_copy(update={"proximal": kinds.ditto})
            self._fit(Guide.of(asked, whole), local)
            self.personal.ditto = [array.copy() for array in self._arrays()]
            found = self.evaluate()
            self._set(common)
        else:
            found = self.evaluate()
        return {f"personal_{name}": value for name, value in found.items()}

    def _count(self, delta: Sequence[Array], sign: float) -> None:
        if len(delta) == 2 * len(self.layout.tensors):
            whole = Weights.of(delta, scaffold.with_controls(self.layout))
            self.control.add(scaffold.split(whole, self.layout)[1], sign)


def count_examples(data: Any) -> int:
    """Length of ``x`` in ``(x, y)``, of any other sized ``data``, or of a dataset of batches."""
    if hasattr(data, "unbatch"):
        found = int(data.unbatch().reduce(np.int64(0), lambda count, *_: count + 1))
    else:
        first = data[0] if isinstance(data, tuple) and data else data
        if not hasattr(first, "__len__"):
            raise ConfigError(
                f"how many examples a {type(first).__name__} holds is unclear: give num_examples"
            )
        found = len(first)
    if found < 1:
        raise ConfigError("this client has no training data")
    return found


def _trainable(model: Any, data: Any) -> TrainableModel:
    if any(base.__module__.partition(".")[0] == "keras" for base in type(model).__mro__):
        from client_worker.keras_model import KerasModel

        return KerasModel(model, data=data)
    missing = [name for name in ("get_weights", "set_weights", "fit") if not hasattr(model, name)]
    if missing:
        raise ConfigError(f"the model has no {', '.join(missing)}: see TrainableModel")
    return cast("TrainableModel", model)


def _figures(metrics: Mapping[str, float] | None) -> dict[str, float]:
    """Metrics as plain floats; NaN stays, or nobody would hear of it."""
    return {name: float(value) for name, value in (metrics or {}).items()}
