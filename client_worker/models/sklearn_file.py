"""Models as fitted scikit-learn estimators, in files that joblib loads.

scikit-learn is imported when a file is written, and nothing here reads one: such a file is a
pickle, and who loads a pickle runs what is in it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Array

ENDING: Final = ".joblib"
MISSING: Final = "needs scikit-learn, which is not installed here: pip install 'warren-fl[sklearn]'"
AsEstimator = Callable[[Sequence[Array]], Any]


def write(estimator: Any, path: Path) -> None:
    """Write a fitted estimator to ``path``; raises ConfigError without joblib, OSError for it."""
    try:
        import joblib
    except ImportError:
        raise ConfigError(f"a {ENDING} {MISSING}") from None
    joblib.dump(estimator, path)


def linear_regression(weights: Sequence[Array]) -> Any:
    """A ``LinearRegression`` with W (features, outputs) and b (outputs,)."""
    w, b = weights
    coefficients, intercept = (w.T, b) if w.shape[1] > 1 else (w[:, 0], float(b[0]))
    return _fitted("LinearRegression", len(w), coef_=coefficients, intercept_=intercept)


def logistic_regression(weights: Sequence[Array]) -> Any:
    """A ``LogisticRegression`` of the labels 0 and 1, with W (features, 1) and b (1,)."""
    w, b = weights
    labels = np.arange(2)
    return _fitted("LogisticRegression", len(w), coef_=w.T, intercept_=b, classes_=labels)


def softmax_regression(weights: Sequence[Array]) -> Any:
    """A ``LogisticRegression`` of the labels from 0, with W (features, classes) and b (classes,).

    Of two classes scikit-learn has one column: the difference, which has the same probabilities.
    """
    w, b = weights
    if w.shape[1] == 2:
        return logistic_regression([w[:, 1:] - w[:, :1], b[1:] - b[:1]])
    labels = np.arange(w.shape[1])
    return _fitted("LogisticRegression", len(w), coef_=w.T, intercept_=b, classes_=labels)


def _fitted(name: str, features: int, **learned: Any) -> Any:
    try:
        from sklearn import linear_model
    except ImportError:
        raise ConfigError(f"a {ENDING} {MISSING}") from None
    estimator = getattr(linear_model, name)()
    for key, value in {**learned, "n_features_in_": features}.items():
        setattr(estimator, key, np.array(value) if isinstance(value, np.ndarray) else value)
    return estimator
