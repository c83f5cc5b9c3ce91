"""The coordinator of federated learning: aggregates updates, sends the new global model."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from coordinator_worker.aggregation import (
    Aggregator,
    Cohort,
    ServerOptimizer,
    aggregator,
    server_optimizer,
)
from coordinator_worker.aggregation.cohort import Delta
from coordinator_worker.aggregation.masked_cohort import MaskedCohort
from coordinator_worker.aggregation.optimizers import Slots
from coordinator_worker.aggregation.private_cohort import PrivateCohort, RoundNoise
from coordinator_worker.aggregation.weighted_sum import WeightedSum
from warren_shared.errors import ConfigError, Rejected
from warren_shared.protocol.transfer import new_transfer
from warren_shared.tensors.compression import RAW
from warren_shared.tensors.description import filled, packed
from warren_shared.tensors.layout import Array, Weights
from warren_shared.tensors.model_change import DOWNLINKS, ModelChange, encoded_change
from warren_shared.tensors.update import Update

CENTER, AVERAGE, MASTER, NOISE = "center", "average", "master", "noise"
AnyCohort = Cohort | PrivateCohort | MaskedCohort


class Model(Protocol):
    """Whatever takes a global model: a Keras model, or the fanout to every client's mailbox."""

    def get_weights(self) -> Sequence[Array]:
        """Return the weights, one array per tensor."""
        ...

    def set_weights(self, weights: Sequence[Array], /) -> object:
        """Take over new weights of the same layout."""
        ...


class FederatedCoordinator:
    """Federated learning over the models of its clients.

    ``models``: who receives the global model. In one process these are the clients' models; in
    ``coordinator-worker`` it is one object, the fanout exchange that reaches every mailbox. The
    first one's weights are the initial global model.

        coordinator = FederatedCoordinator([client.model for client in clients])
        for _ in range(rounds):
            updates = [client.train(coordinator.weights) for client in clients]
            coordinator.send(coordinator.aggregate(updates))

    ``aggregator`` makes one delta of a round's updates, ``server_optimizer`` moves the model by it;
    both are named as on the command line (docs/algorithms.md) or given. As they are this is FedAvg
    (McMahan et al. 2017, algorithm 1). ``clip_norm`` bounds the L2 norm of each update.

    With ``average`` k a running mean of the versions is kept, a = k a + (1 - k) x, to end with
    (Polyak & Juditsky 1992): ``average_into``. ``slots`` is what all of them remember from round to
    round; ``population`` the number of clients there are, by which SCAFFOLD's control variates move
    (Karimireddy et al. 2020, algorithm 1).

    With a ``downlink`` other than raw clients get a model as its change in few bits. Then what
    they have is ``compressed(model)``, and updates move the model without the loss, the master, so
    that what one version lacks the next one brings.

    With ``noise`` the model is differentially private in each client (docs/privacy.md), if the
    caller sees to it that none is in more rounds, or sooner again, than the noise is made for.

    Of masked updates ``aggregate`` takes the MaskedCohort that the caller has filled and unmasked.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        aggregator: str | Aggregator = "mean",
        server_optimizer: str | ServerOptimizer = "sgd",
        clip_norm: float | None = None,
        average: float | None = None,
        downlink: str = RAW,
        noise: RoundNoise | None = None,
        slots: Slots | None = None,
    ) -> None:
        if not models:
            raise ConfigError("a coordinator needs at least one model to send to")
        self.models = list(models)
        self.population = len(models)
        self._aggregator = _aggregator(aggregator)
        self._optimizer = _optimizer(server_optimizer)
        self._clip_norm = clip_norm
        self._average = average
        self._downlink = _downlink(downlink)
        self._noise = noise
        self._rounds = 0
        self._is_pending = False  # whether a model was computed and not prepared for sending
        first = self.models[0].get_weights()
        self._weights = first if isinstance(first, Weights) else packed(self.models[0], first)
        self._fills = len(first) > len(self._weights)  # the models have more than what travels
        self.slots = slots if slots else self._initial_slots()

    @property
    def weights(self) -> Weights:
        """The current global model: one array per tensor, not to be written to."""
        return self._weights

    def begin(
        self, memory: Weights | None = None, model: Weights | None = None, *, alone: bool = True
    ) -> Cohort | PrivateCohort:
        """Begin a round; updates are added to it, and ``aggregate([it])`` closes it.

        ``model`` is what is current when it closes: the one that was sent last unless told. Who is
        not ``alone`` in changing it, as a region is, has statistics folded without it.
        """
        if self._noise is not None:
            return PrivateCohort(self._weights.layout, self._noise, memory)
        current = (model or self._weights) if alone else None
        return Cohort(
            self._weights.layout,
            self._aggregator,
            clip_norm=self._clip_norm,
            memory=memory,
            model=current,
        )

    def aggregate(
        self,
        updates: Iterable[Update | WeightedSum | AnyCohort],
        context: str | None = None,
    ) -> Weights:
        """Return the global model moved by what the aggregator makes of ``updates``.

        With FedAvg that is w + (sum_k n_k * delta_k) / (sum_k n_k), n_k the number of examples of
        update k. A Cohort, or a WeightedSum, counts as the updates in it; its memory may become the
        result. The current model stays as it is until ``send``. With a downlink other than raw w is
        the master, and so is the result. ``context`` says which round of which run it is, for the
        noise; unless told it is the number of the round here.

        Raises:
            ConfigError: there are no updates or too few, or one does not fit the model.
            Rejected: one is not finite, or lacks what the aggregator needs.
            Diverged: the new model would not be finite. The slots were reset.
        """
        cohort: AnyCohort | None = None
        for update in updates:
            if isinstance(update, AnyCohort):
                if cohort is not None:
                    raise ConfigError("a round is one cohort")
                cohort = update
                continue
            if cohort is None:
                cohort = self.begin()
            self._take(cohort, update)
        if cohort is None or not cohort.count:
            raise ConfigError("there are no updates to aggregate")
        controls = min(1.0, cohort.count / self.population)
        delta = self._delta(cohort, context)
        try:
            model = self.slots.get(MASTER, self._weights)
            moved = self._optimizer.move(model, delta, self.slots, controls=controls)
        except Exception:
            # The noise of what follows has to go on from that of this round all the same.
            self.slots.update(self._initial_slots() | _only(NOISE, self.slots))
            raise
        # Noise, random numbers under masks and what a client likes to send fill it; the file of a
        # version, which has no padding, would not have the digest of the model.
        moved.clear_padding()
        self._is_pending = True
        if self._average is not None:
            for mean, new in zip(self.slots[AVERAGE].runs(), moved.runs(), strict=True):
                mean *= self._average
                mean += new * np.asarray(1 - self._average, new.dtype)
        return moved

    def compressed(
        self, model: Weights, transfer: str | None = None
    ) -> tuple[Weights, ModelChange | None]:
        """Return what clients have after the change to ``model``, the new master, and the change.

        With a raw downlink, and of a change that is too large to be encoded, that is ``whole``.
        ``transfer`` is an id that no other change has.
        """
        master = self.slots.get(MASTER)
        if self._downlink == RAW or master is None:
            return self.whole(model), None
        transfer = transfer or new_transfer()
        try:
            change, sent = encoded_change(
                self._weights, model, self._downlink, transfer, into=master
            )
        except Rejected:
            return self.whole(model), None
        self.slots[MASTER] = model
        self._is_pending = False
        return sent, change

    def whole(self, model: Weights) -> Weights:
        """Return ``model``, which clients get whole: there is nothing left to be brought later."""
        if self._downlink == RAW:
            self.slots.pop(MASTER, None)
        else:
            memory = self.slots.setdefault(MASTER, Weights.empty(model.layout))
            memory.buffer[:] = model.buffer
        self._is_pending = False
        return model

    def average_into(self, weights: Weights) -> None:
        """Make ``weights`` the mean of the versions, if one is kept."""
        if self._average is not None:
            weights.buffer[:] = self.slots[AVERAGE].buffer

    def _delta(self, cohort: AnyCohort, context: str | None) -> Delta:
        if isinstance(cohort, MaskedCohort):
            return cohort.delta()
        if isinstance(cohort, Cohort):
            return cohort.delta(self.slots.get(CENTER))
        self._rounds += 1
        return cohort.delta(self.slots[NOISE], context or f"round {self._rounds}")

    def _take(self, cohort: AnyCohort, update: Update | WeightedSum) -> None:
        if isinstance(cohort, MaskedCohort):
            raise ConfigError("an update in clear is not added to masked ones")
        if not isinstance(update, WeightedSum):
            cohort.add(update)
            return
        if difference := self._weights.layout.difference(update.layout, roles=True):
            raise ConfigError(f"this sum does not fit the model: {difference}")
        cohort.merge(update)

    def _initial_slots(self) -> Slots:
        layout = self._weights.layout
        slots = self._optimizer.initial(layout)
        if self._aggregator.centered:
            slots[CENTER] = Weights.empty(layout)
        if self._average is not None:
            slots[AVERAGE] = Weights(layout, self._weights.buffer.copy())
        if self._downlink != RAW:
            slots[MASTER] = Weights(layout, self._weights.buffer.copy())
        if self._noise is not None:
            slots[NOISE] = Weights.empty(layout)  # integers in the place of floats
        return slots

    def send(self, model_updates: Sequence[Array]) -> None:
        """Make ``model_updates`` the global model and hand it to every model.

        With a downlink other than raw, what is to be sent in it is what ``compressed`` returned.
        """
        self._weights = Weights.of(model_updates, self._weights.layout)
        if self._is_pending:
            self.whole(self._weights)
        for model in self.models:
            model.set_weights(filled(model, self._weights) if self._fills else self._weights)


def _aggregator(given: str | Aggregator) -> Aggregator:
    return aggregator(given) if isinstance(given, str) else given


def _only(name: str, slots: Slots) -> Slots:
    return {name: slots[name]} if name in slots else {}


def _downlink(given: str) -> str:
    if given not in (RAW, *DOWNLINKS):
        raise ConfigError(f"downlink {given!r}: give one of {', '.join((RAW, *DOWNLINKS))}")
    return given


def _optimizer(given: str | ServerOptimizer) -> ServerOptimizer:
    return server_optimizer(given) if isinstance(given, str) else given
