"""The client of federated learning: trains a local model from a global one, on its own data."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, Protocol, cast

import numpy as np

from client_worker.privacy.budget import StepBudget, budget_of
from client_worker.privacy.terms import RECORD_PRIVACY, RecordPrivacy, Refused
from client_worker.training import scaffold
from client_worker.training.example_count import count_examples
from client_worker.training.exchange import ALL, Exchange, check_adapters, not_averaged
from client_worker.training.metrics import FigureFilter, by_finiteness
from client_worker.training.personalization import Personal, Personalization, places
from client_worker.training.plan import LOCAL_STEPS, TrainingPlan, run_fit, takes_plan
from client_worker.training.private_fit import private_fit, why_not_private
from client_worker.training.scaffold import Control
from client_worker.training.update_rules import UpdateRule, replace
from client_worker.training.values import number, positive, whole_examples
from warren_shared.errors import ConfigError
from warren_shared.observability.log import Log
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors import frozen
from warren_shared.tensors.description import (
    FROZEN,
    LOCAL,
    WIDENED,
    weight_names,
    weight_roles,
    widened,
)
from warren_shared.tensors.evaluation import Evaluation
from warren_shared.tensors.frozen import FROZEN_WEIGHTS
from warren_shared.tensors.layout import STATISTIC, Array, Layout, Weights
from warren_shared.tensors.update import Update

log = Log(__name__)

AS_THE_TASK_SAYS: Final = LocalTraining()
SIDES: Final = ("this site's", "the federation's")  # of two layouts, in words


class TrainableModel(Protocol):
    """All that a model needs to take part; a Keras model is wrapped into one by itself.

    It may also have ``evaluate(data)``, which is asked what the global model is worth on held-out
    data and returns figures by name, or an Evaluation; ``weight_names()``, one for each array; and
    ``weight_roles()``, one of ``trainable``, ``statistic``, ``frozen`` and ``local`` for each
    array: a statistic, such as a moving variance, is averaged by weight and nothing else is done to
    it, and what is local stays at the site. What is frozen no training may change: it is treated as
    a statistic, or, if the coordinator says ``--exchange trainable``, stays at the site and has to
    be equal at all. Without it all are trainable, but for integers and booleans, which are local.
    16-bit floats travel as float32.
    """

    def get_weights(self) -> Sequence[Array]:
        """Return the weights as arrays of numbers, in an order that never changes."""
        ...

    def set_weights(self, weights: Sequence[Array], /) -> object:
        """Take over weights of the same shapes."""
        ...

    def fit(self, data: Any, learning_rate: float, /) -> Mapping[str, float] | None:
        """Train on ``data`` from the current weights; return metrics such as ``loss``.

        The metric ``local_steps`` says how many optimizer steps it took. A ``fit`` with a third
        parameter ``guide`` is given a TrainingPlan, which it must heed.
        """
        ...


class FederatedClient:
    """One participant: a model, its own data, and how fast it learns.

    ``model``: a Keras model, or anything with the methods of TrainableModel. ``data``: what the
    model is fitted on, usually ``(x, y)`` arrays, or a ``tf.data.Dataset`` of batches; it never
    leaves this object. ``learning_rate``: of the local optimizer. ``validation``: held-out data
    of the same form, on which each global model is evaluated. ``num_examples``: the weight of
    this client's updates; counted from ``data`` if not given.

    ``update_rule``: what becomes of the local model when a global one comes
    (`client_worker.training.update_rules`: ``replace``, ``interpolate(alpha)``). ``local``: tensors
    that stay here, by name or position.
    ``ditto``: lambda of a personal model trained beside the global one; 0 for none.

    ``record_privacy``: train so that updates are differentially private in each record
    (docs/privacy.md), as ``epsilon=1,delta=1e-5,steps=30,examples=200``; without a client worker
    what is spent is forgotten with this object.
    """

    def __init__(  # noqa: PLR0913  # all but three by keyword only
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
        record_privacy: str | RecordPrivacy | StepBudget | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.learning_rate = positive("learning_rate", learning_rate)
        self.validation = validation
        self.num_examples = (
            whole_examples(num_examples) if num_examples is not None else count_examples(data)
        )
        self._validation_examples: int | None = None
        self._filter = FigureFilter()
        self._fixed_state: dict[str, str] | None = None
        self._trainable = _trainable(model, data)
        self._dtypes = [np.asarray(array).dtype for array in self._trainable.get_weights()]
        arrays = self._arrays()
        kinds = self._kinds(arrays, update_rule, local, number("ditto", ditto))
        if ditto and not takes_plan(self._trainable.fit):
            raise ConfigError(
                "ditto: this model's fit takes no guide (see client_worker.training.plan)"
            )
        self.personal = Personal(kinds, arrays)
        self._all = Exchange.without(self._trainable, arrays, kinds.local)
        self._trained: Exchange | None = None  # what travels of it if only that does that trains
        self._frozen = [
            place
            for place, role in enumerate(weight_roles(self._trainable, arrays))
            if role == FROZEN and place not in kinds.local
        ]
        self._frozen_digests: dict[str, str] | None = None
        self._saw_adapters = False
        self.has_own_base = True
        self.layout = self._all.layout
        self.control = Control(self.layout.trainable)
        self.budget: StepBudget | None = None
        if (budget := budget_of(record_privacy)) is not None:
            self.keep_records_private(budget)

    def keep_records_private(self, budget: StepBudget) -> None:
        """Train with the noise of ``budget`` from now on, and only as often as it grants.

        Raises Refused if this client cannot.
        """
        kinds = self.personal.kinds
        reason = why_not_private(self._trainable, self.data)
        if kinds:
            used = [("local layers", set(kinds.local) > set(kinds.apart)), ("ditto", kinds.ditto),
                    ("an update_rule", kinds.update_rule is not replace)]  # fmt: skip
            named = " and ".join(name for name, is_used in used if is_used)
            reason = f"what {named} keeps here is trained without noise: leave it out"
        if all(tensor.role == STATISTIC for tensor in self.layout.tensors):
            reason = reason or "the model has nothing to train"
        if reason:
            raise Refused(f"{RECORD_PRIVACY}: {reason}")
        self.budget = budget

    @property
    def trainable(self) -> TrainableModel:
        """The model with the methods that are used of it; a Keras model's adapter."""
        return self._trainable

    @property
    def takes_plan(self) -> bool:
        """Whether training can be limited to a number of steps."""
        return takes_plan(self._trainable.fit)

    @property
    def fixed_state(self) -> dict[str, str]:
        """Digests of what has to be equal at every site and is not exchanged, if the model says.

        A model may have a method ``fixed_state()`` that returns them by name, in hexadecimal.
        """
        if self._fixed_state is None:
            known = getattr(self._trainable, "fixed_state", None)
            self._fixed_state = dict(known()) if known is not None else {}
        return self._fixed_state

    def check_fixed_state(self, federation: Mapping[str, str]) -> None:
        """Raise ConfigError if the federation's differs, where it has any."""
        if not federation:
            return
        known = self.fixed_state
        if FROZEN_WEIGHTS in federation:
            known = known | {FROZEN_WEIGHTS: self._frozen_digest}
        for name in sorted({*federation, *known}):
            ours, theirs = known.get(name), federation.get(name)
            if ours != theirs and name == FROZEN_WEIGHTS:
                raise ConfigError(_other_base(str(ours), str(theirs)))
            if ours != theirs:
                words = f"{ours or 'none'} here, {theirs or 'none'} there"
                raise ConfigError(
                    f"this site's {name} is not the federation's ({words}): one number would mean"
                    " two things; give every site the same"
                )

    def fixed_state_for(self, local: LocalTraining) -> dict[str, str]:
        """Return the same for a federation that trains as ``local`` says.

        If it exchanges only what trains, the digest of what is frozen is one of them.
        """
        if local.exchange == ALL:
            return self.fixed_state
        return self.fixed_state | {FROZEN_WEIGHTS: self._frozen_digest}

    def layout_for(self, local: LocalTraining) -> Layout:
        """Layout of a global model that comes with ``local``, and of the updates to it.

        Raises ConfigError if only what trains is exchanged, and nothing does, or not so that it
        could be averaged.
        """
        layout = self.model_layout(local)
        return layout.with_controls if local.scaffold else layout

    def model_layout(self, local: LocalTraining) -> Layout:
        """The same without control variates."""
        return self._exchange(local).layout

    def weights(self, local: LocalTraining = AS_THE_TASK_SAYS) -> Weights:
        """The local model's weights but for those that stay here, copied into one buffer."""
        exchange = self._exchange(local)
        return Weights.of(exchange.of(self._arrays()), exchange.layout)

    def initial(self, local: LocalTraining = AS_THE_TASK_SAYS) -> Weights:
        """What a federation that trains as ``local`` says can begin with."""
        weights = self.weights(local)
        return scaffold.longer(weights) if local.scaffold else weights

    def update(
        self, global_model: Sequence[Array], local: LocalTraining = AS_THE_TASK_SAYS
    ) -> None:
        """Make of the global model and the local one what the update rule says.

        A model may keep the arrays and train in place: views of the global model would change it.
        """
        start, _ = self._parts(global_model, local)
        self._set(self._begun(self._filled(start, local), local))

    def train(
        self, global_model: Sequence[Array], local: LocalTraining = AS_THE_TASK_SAYS
    ) -> Update:
        """Train from ``global_model`` on the local data; return what that changed.

        The update's ``delta`` is trained minus global weights, and of a statistic
        (`warren_shared.tensors.layout`) the value itself; its metrics are what ``fit``
        returned and, with ``validation``, ``eval_…``: the *global* model on the held-out data, and
        ``personal_…``: this client's own model after the round, if it has one. With
        ``local.scaffold`` control variates lie behind the weights, in the delta too.

        With ``record_privacy`` the update has no figures, its number of examples is the public one,
        and a statistic is the global model's.

        Raises ConfigError if the model cannot train as ``local`` says, or no noisy step is left.
        """
        start, controls = self._parts(global_model, local)
        self._look_at_adapters(local)
        whole = self._filled(start, local)
        self._set(whole)
        if self.budget is not None:
            return self._train_private(start, whole, local)
        found = self.evaluation()
        metrics = self._filter.figures(found.metrics(), "eval_") if found else {}
        begun = self._begun(whole, local)
        if self.personal.kinds.update_rule is not replace:
            self._set(begun)
        figures = self._fit(TrainingPlan.of(local, whole, self._correction(controls)), local)
        told = figures.pop(LOCAL_STEPS, 0.0)
        steps = max(0, round(told) if isfinite(told) else 0) or None
        arrays = self._arrays()
        if difference := self.layout.difference(Layout.of(self.personal.shared(arrays))):
            raise ConfigError(f"training changed the model's layout: {difference}")
        exchange = self._exchange(local)
        trained = exchange.of(arrays)
        self.personal.trained(arrays)
        delta = Weights.uninitialized(self.layout_for(local))
        self._write_change(delta, exchange, trained, start)
        if controls is not None:
            if steps is None:
                raise ConfigError("SCAFFOLD needs to know the steps behind an update: return them"
                                  f" from fit as the metric {LOCAL_STEPS!r}")  # fmt: skip
            moved = scaffold.split(delta, exchange.layout)[1]
            travel = steps * self.learning_rate * local.learning_rate_factor
            x, y = (exchange.layout.trainable_of(each) for each in (exchange.of(begun), trained))
            scaffold.change(moved, x, y, controls, travel)
            self.control.add(moved)
        metrics |= figures | self._train_personal(whole, local)
        metrics = self._filter.limited(metrics)
        finite, others = by_finiteness(metrics)
        return Update(delta, self.num_examples, finite, steps, found, others)

    def _train_private(
        self, start: Weights, whole: Sequence[Array], local: LocalTraining
    ) -> Update:
        budget = cast("StepBudget", self.budget)
        plan = TrainingPlan.of(local, whole, [] if local.scaffold else None)
        arrays = self._arrays()
        rate = self.learning_rate * local.learning_rate_factor
        roles = weight_roles(self._trainable, arrays)
        steps = private_fit(self._trainable, self.data, rate, plan, budget, roles)
        if local.exchange != ALL:
            self._check_frozen()
        exchange = self._exchange(local)
        each = zip(exchange.layout.tensors, exchange.of(self._arrays()), start, strict=True)
        kept = [old if tensor.role == STATISTIC else new for tensor, new, old in each]
        delta = Weights.uninitialized(exchange.layout)
        self._write_change(delta, exchange, kept, start)
        return Update(delta, budget.terms.examples, {}, steps)

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
        model that returns an Evaluation can be pooled with others'
        (`warren_shared.tensors.evaluation`).
        """
        evaluate = getattr(self._trainable, "evaluate", None)
        if evaluate is None or self.validation is None:
            return None
        found = evaluate(self.validation)
        if isinstance(found, Evaluation):
            return self._filter.evaluation(found)
        if self._validation_examples is None:
            self._validation_examples = count_examples(self.validation)
        figures = self._filter.limited(self._filter.figures(found))
        return Evaluation(self._validation_examples, figures)

    def _arrays(self) -> list[Array]:
        """The model's weights, 16-bit ones as float32."""
        return [widened(np.asarray(array)) for array in self._trainable.get_weights()]

    def _set(self, arrays: Sequence[Array]) -> None:
        given = zip(arrays, self._dtypes, strict=True)
        self._trainable.set_weights([array.astype(dtype) for array, dtype in given])

    def _parts(
        self, global_model: Sequence[Array], local: LocalTraining
    ) -> tuple[Weights, Weights | None]:
        """The global model's weights and, with SCAFFOLD, its control variates."""
        whole = Weights.of(global_model, self.layout_for(local))
        return scaffold.split(whole, self.model_layout(local)) if local.scaffold else (whole, None)

    def _exchange(self, local: LocalTraining) -> Exchange:
        """What travels in a federation that trains as ``local`` says."""
        if local.exchange == ALL:
            return self._all
        if self._trained is None:
            arrays = self._arrays()
            stay = (*self.personal.kinds.local, *self._frozen)
            if len(stay) == len(arrays):
                raise ConfigError(
                    "--exchange trainable: none of the model's tensors trains, so there is nothing"
                    " to federate"
                )
            found = Exchange.without(self._trainable, arrays, stay)
            check_adapters(self._trainable, arrays, self._trained_places())
            self._trained = found
        return self._trained

    def _trained_places(self) -> list[int]:
        """Where what trains and travels is among all tensors."""
        return self._all.layout.trainable_of(self._all.places)

    @property
    def _frozen_digest(self) -> str:
        """Digest of what is frozen, as the model has it; of nothing that is another one."""
        if self._frozen_digests is None:
            self._frozen_digests = self._digests()
        return frozen.digest(self._frozen_digests)

    def _digests(self) -> dict[str, str]:
        arrays = [np.asarray(array) for array in self._trainable.get_weights()]
        names = weight_names(self._trainable, len(arrays))
        return frozen.digests(names, arrays, self._frozen)

    def _filled(self, start: Sequence[Array], local: LocalTraining) -> list[Array]:
        """The whole model: ``start``, what is this client's own, and what is frozen."""
        if local.exchange == ALL:
            if self._frozen:
                self.base_replaced()
            return self.personal.filled(start)
        if self._frozen and self._frozen_digests is None:
            self._frozen_digests = self._digests()  # with which training is compared
        whole = self._exchange(local).into(self._arrays(), start)
        return self.personal.filled(self._all.of(whole))

    def base_replaced(self) -> None:
        """What is frozen may be another than the task's: it came with all, or from a file."""
        self._frozen_digests, self.has_own_base = None, False

    def _begun(self, whole: Sequence[Array], local: LocalTraining) -> list[Array]:
        """Where training begins if ``whole`` is the global model with the own tensors."""
        return self.personal.begun(whole, () if local.exchange == ALL else self._frozen)

    def _look_at_adapters(self, local: LocalTraining) -> None:
        """Warn once of low-rank adapters that are averaged, and whose product is not."""
        if local.exchange == ALL and not self._saw_adapters:
            self._saw_adapters = True
            if words := not_averaged(self._trainable, self._trained_places()):
                log.warning("adapters_not_averaged", "%s", words)

    def _check_frozen(self) -> None:
        """Raise ConfigError if training has changed what it must not: others have it as it was."""
        if not self._frozen or self._frozen_digests is None:
            return
        now = self._digests()
        for tensor, known in self._frozen_digests.items():
            if now.get(tensor) != known:
                raise ConfigError(
                    f"training changed tensor {tensor}, which is frozen, and with --exchange"
                    " trainable nobody would hear of it: leave it as it is, or let it train"
                )

    def _correction(self, controls: Weights | None) -> list[Array] | None:
        """Correction c - c_i of each tensor of the model; of what is not averaged or trained, 0."""
        if controls is None:
            return None
        corrections = iter(self.control.correction(controls))
        roles = iter(tensor.role for tensor in self.layout.tensors)
        return [
            np.zeros_like(array)
            if place in self.personal.kinds.local or next(roles) == STATISTIC
            else next(corrections)
            for place, array in enumerate(self._arrays())
        ]

    def _kinds(
        self,
        arrays: Sequence[Array],
        update_rule: UpdateRule,
        local: Sequence[str | int],
        ditto: float,
    ) -> Personalization:
        """What stays here: ``local``, what the model calls so, and what cannot be averaged."""
        chosen = set(places(local, self._trainable, len(arrays)))
        roles = weight_roles(self._trainable, arrays)
        apart = [place for place, role in enumerate(roles) if role == LOCAL and place not in chosen]
        if apart:
            names = weight_names(self._trainable, len(arrays))
            told = ", ".join(f"{names[p]} ({self._dtypes[p]})" for p in apart[:8])
            more = f" and {len(apart) - 8} more" if len(apart) > 8 else ""
            log.info("tensors_stay", "these stay at this site, not averaged: %s%s", told, more)
        return Personalization(update_rule, tuple(sorted(chosen | {*apart})), ditto, tuple(apart))

    def _write_change(
        self, delta: Weights, exchange: Exchange, trained: Sequence[Array], start: Sequence[Array]
    ) -> None:
        """Write what travels: of a trainable tensor the difference, of a statistic the value."""
        before = _held(start, exchange.of(self._dtypes))
        each = zip(exchange.layout.tensors, delta, trained, before, strict=False)
        for tensor, target, after, first in each:
            if tensor.role == STATISTIC:
                np.copyto(target, after)
            else:
                np.subtract(after, first, out=target)

    def _fit(self, guide: TrainingPlan, local: LocalTraining) -> dict[str, float]:
        rate = self.learning_rate * local.learning_rate_factor
        found = run_fit(self._trainable.fit, self.data, rate, guide, guide.asked())
        if local.exchange != ALL:
            self._check_frozen()
        return self._filter.figures(found)

    def _train_personal(self, whole: Sequence[Array], local: LocalTraining) -> dict[str, float]:
        """Train Ditto's model, if there is one; metrics of this client's personal model."""
        kinds = self.personal.kinds
        if not kinds:
            return {}
        if kinds.ditto:
            common = self._arrays()
            self._set(self.personal.ditto or whole)
            asked = local.model_copy(update={"proximal": kinds.ditto})
            self._fit(TrainingPlan.of(asked, whole), local)
            self.personal.ditto = [array.copy() for array in self._arrays()]
            found = self.evaluate()
            self._set(common)
        else:
            found = self.evaluate()
        return self._filter.figures(found, "personal_")

    def _count(self, delta: Sequence[Array], sign: float) -> None:
        if isinstance(delta, Weights) and delta.layout.controls_start < delta.layout.size_bytes:
            controls = delta.buffer[delta.layout.controls_start :]
            self.control.add(Weights(self.layout.trainable, controls), sign)
        elif len(delta) > len(self.layout.tensors):
            whole = Weights.of(delta, self.layout.with_controls)
            self.control.add(scaffold.split(whole, self.layout)[1], sign)


def _held(start: Sequence[Array], dtypes: Sequence[Any]) -> list[Array]:
    """``start`` as a model of ``dtypes`` holds it: a 16-bit tensor has rounded it."""
    return [
        array.astype(dtype).astype(array.dtype) if dtype.name in WIDENED else array
        for array, dtype in zip(start, dtypes, strict=True)
    ]


def _other_base(ours: str, theirs: str) -> str:
    """What to do about frozen weights that are not the federation's, in one line."""
    return (
        f"this site's frozen weights are not the federation's ({ours[:12]} here, {theirs[:12]}"
        " there), and --exchange trainable does not send them: load the same pre-trained file at"
        " every site, freeze the same layers, and give enable_lora the same seed"
    )


def _trainable(model: Any, data: Any) -> TrainableModel:
    if any(base.__module__.partition(".")[0] == "keras" for base in type(model).__mro__):
        from client_worker.models.keras_model import KerasModel

        return KerasModel(model, data=data)
    if any(base.__module__.partition(".")[0] == "torch" for base in type(model).__mro__):
        raise ConfigError("a PyTorch module needs a loss to train: give TorchTask both")
    missing = [name for name in ("get_weights", "set_weights", "fit") if not hasattr(model, name)]
    if missing:
        raise ConfigError(f"the model has no {', '.join(missing)}: see TrainableModel")
    return cast("TrainableModel", model)
