"""Linear regression on scikit-learn's diabetes data (442 patients), at three clinics.

The target is the progression of the disease after a year, here in units of 100. The features come
centred and scaled to unit norm over all patients, so that each is about 1 when multiplied by 21.
Of the six blood values s1 … s6 only s5 and s6 are used: the first four are nearly sums of one
another, and gradient descent would take thousands of rounds to tell them apart.
"""

import numpy as np
from sklearn.datasets import load_diabetes

from client_worker import KerasTask, LinearRegressionModel

SHARES = (0.5, 0.3, 0.2)
FEATURES = [0, 1, 2, 3, 8, 9]  # age, sex, body mass index, blood pressure, s5, s6
Records = tuple[np.ndarray, np.ndarray]


def clinics() -> list[Records]:
    """Each clinic's patients: features, shape (patients, 6), and targets, shape (patients, 1)."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(7).permutation(len(y))
    ends = (np.cumsum(SHARES)[:-1] * len(y)).astype(int)
    scaled = ((x[:, FEATURES] * 21).astype(np.float32), (y[:, None] / 100).astype(np.float32))
    return [(scaled[0][part], scaled[1][part]) for part in np.split(order, ends)]


def clinic(shard: int = 0, learning_rate: float = 0.3, epochs: int = 1) -> KerasTask:
    """One clinic's task: a round is ``epochs`` steps of gradient descent on all its patients."""
    x, y = clinics()[shard % len(SHARES)]
    model = LinearRegressionModel(features=x.shape[1])
    return KerasTask(model, (x, y), learning_rate, epochs=epochs, batch_size=len(x))
