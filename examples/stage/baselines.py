"""What federation is compared with: each site alone, and all data in one place."""

from collections.abc import Sequence

from examples.stage.study import Records, Site, Study, pooled, score
from shared.layout import Array

Evaluation = dict[str, dict[str, float]]


class Comparison:
    """Trains the study's model without federation, and judges models of either kind.

    One Keras model serves all of it: to make one anew for every site and split would spend more
    time on TensorFlow's graphs than on training.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        first = study.sites(0)[0]
        self._task = study.task(first.train, 0, 1)
        self._initial: list[Array] = list(self._task.model.get_weights())

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
        import keras
        import tensorflow as tf

        study = self._study
        keras.utils.set_random_seed(seed)
        batches = tf.data.Dataset.from_tensor_slices(records).shuffle(len(records[1]))
        batches = batches.batch(study.batch_size).repeat(study.rounds * study.epochs)
        self._task.model.set_weights(self._initial)
        self._task.model.fit(batches, study.learning_rate)
        return self.judge(self._task.model.get_weights(), self._study.sites(seed))
