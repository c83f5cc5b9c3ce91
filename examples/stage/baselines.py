"""What federation is compared with: each site alone, and all data in one place."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from warren_examples.stage.study import Records, Site, Study, pooled, score
from warren_shared.errors import Stopped
from warren_shared.tensors.layout import Array

if TYPE_CHECKING:
    from client_worker import KerasTask

Evaluation = dict[str, dict[str, float]]


class Comparison:
    """Trains the study's model without federation, and judges models of either kind.

    One Keras model serves all of it: to make one anew for every site and split would spend more
    time on TensorFlow's graphs than on training.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._initial: list[Array] = []
        self._stopped = False

    @cached_property
    def _task(self) -> "KerasTask":
        """Made when it is first needed, on the thread that then waits for TensorFlow to load."""
        task = self._study.task(self._study.sites(0)[0].train, 0, 1)
        self._initial = list(task.model.get_weights())
        return task

    def stop(self) -> None:
        """Train no further: nobody waits for the result."""
        self._stopped = True
        if "_task" in self.__dict__:
            self._task.model.model.stop_training = True  # Keras looks at it after each step

    def alone(self, seed: int) -> dict[str, Evaluation]:
        """Figures of each site's own model, by site, and of the ``pooled`` one."""
        sites = self._study.sites(seed)
        found = {site.name: self._trained_on(site.train, seed) for site in sites}
        return found | {"pooled": self._trained_on(pooled([s.train for s in sites]), seed)}

    def judge(self, weights: Sequence[Array], sites: Sequence[Site]) -> Evaluation:
        """Figures of ``weights`` on each site's held-out patients, and on ``all`` of them.

        Only this comparison looks at several sites' patients at once; it may, because the data of
        the examples is public.
        """
        self._task.model.set_weights(list(weights))
        figures = {site.name: score(self._task, site.held_out) for site in sites}
        return figures | {"all": score(self._task, pooled([s.held_out for s in sites]))}

    def _trained_on(self, records: Records, seed: int) -> Evaluation:
        """Train on ``records`` for as many epochs as federation does.

        All epochs are one long dataset: to begin one costs as much as to train on it.
        """
        study, model = self._study, self._task.model
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(seed)
        batches = tf.data.Dataset.from_tensor_slices(records).shuffle(len(records[1]))
        batches = batches.batch(study.batch_size).repeat(study.rounds * study.epochs)
        model.set_weights(self._initial)
        if self._stopped:
            raise Stopped("the comparison was stopped")
        model.fit(batches, study.learning_rate)
        return self.judge(model.get_weights(), study.sites(seed))
