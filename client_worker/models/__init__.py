"""Models that need nothing but numpy, one function each that makes a TrainableModel."""

from client_worker.models.kmeans import KMeans, k_means
from client_worker.models.linear import linear_regression, logistic_regression, softmax_regression
from client_worker.models.mlp import mlp
from client_worker.models.random_trees import RandomTrees, random_trees
from client_worker.models.sklearn_model import SklearnModel
from client_worker.models.svm import RandomFeatures, linear_svm, random_features
from client_worker.models.xgboost_bagging import XGBoostBagging, xgboost_bagging

__all__ = [
    "KMeans",
    "RandomFeatures",
    "RandomTrees",
    "SklearnModel",
    "XGBoostBagging",
    "k_means",
    "linear_regression",
    "linear_svm",
    "logistic_regression",
    "mlp",
    "random_features",
    "random_trees",
    "softmax_regression",
    "xgboost_bagging",
]
