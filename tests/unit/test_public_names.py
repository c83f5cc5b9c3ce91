"""What users import: these names stay where they are."""

import os
import subprocess
import sys
from pathlib import Path

import client_worker
import coordinator_worker
import warren_fl

PUBLIC = {
    "coordinator_worker": {
        "Aggregator", "ConfigError", "Contribution", "FederatedCoordinator", "Listener",
        "ServerOptimizer", "Update", "WarrenError",
    },
    "client_worker": {
        "ConfigError", "Evaluation", "FederatedClient", "KerasTask", "LinearRegressionModel",
        "Listener", "NumpyModel", "Task", "TorchTask", "TrainableModel", "TrainingPlan", "Update",
        "WarrenError", "enable_lora", "interpolate", "of_classes", "of_scores", "replace",
        "statistics_task",
    },
    "warren_fl": {
        "ConfigError", "Federation", "FederationFailed", "Listener", "Result", "Run", "WarrenError",
    },
    "client_worker.models": {
        "KMeans", "RandomFeatures", "RandomTrees", "SklearnModel", "XGBoostBagging", "k_means",
        "linear_regression", "linear_svm", "logistic_regression", "mlp", "random_features",
        "random_trees", "softmax_regression", "xgboost_bagging",
    },
    "client_worker.partition": {"by_column", "dirichlet", "iid", "shards"},
}  # fmt: skip


def test_what_users_import_is_there_and_nothing_else_is_promised() -> None:
    for module, names in PUBLIC.items():
        found = sys.modules.get(module) or __import__(module, fromlist=["_"])
        assert all(hasattr(found, name) for name in names), module
    assert set(client_worker.__all__) == PUBLIC["client_worker"]
    assert set(coordinator_worker.__all__) == PUBLIC["coordinator_worker"]
    assert set(warren_fl.__all__) == PUBLIC["warren_fl"]


def test_a_users_own_folder_called_shared_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").write_text("raise RuntimeError('the user's own')\n")
    (tmp_path / "my_task.py").write_text("import client_worker, coordinator_worker.cli\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", "import my_task; my_task.coordinator_worker.cli.main(['--help'])"],
        cwd=tmp_path, env=environment, check=True, capture_output=True,
    )  # fmt: skip


def test_each_program_says_its_release() -> None:
    for program in ("broker_config", "client_worker", "coordinator_worker"):
        command = [sys.executable, "-m", f"{program}.cli", "--version"]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert told.split()[1].count(".") == 2, told
