"""`TorchTask` where PyTorch is not; tests/torch has those where it is."""

import subprocess
import sys

import pytest

from client_worker import ConfigError, FederatedClient, TorchTask

WITHOUT = """
import sys
sys.modules["torch"] = None  # as if it were not installed
from client_worker import ConfigError, TorchTask
try:
    TorchTask(None, None)
except ConfigError as error:
    print(error)
"""


def test_where_pytorch_is_missing_one_line_says_how_to_get_it() -> None:
    told = subprocess.check_output([sys.executable, "-c", WITHOUT], text=True)
    assert told.strip() == "PyTorch is not installed here: pip install 'warren-fl[torch]'"


def test_its_name_and_signature_need_no_pytorch() -> None:
    assert TorchTask.__doc__
    assert "torch" not in sys.modules


def test_a_module_of_pytorch_without_a_task_is_told_of_it() -> None:
    module = type("Linear", (), {"__module__": "torch.nn.modules.linear"})()
    with pytest.raises(ConfigError, match="give TorchTask both"):
        FederatedClient(module, ([1.0], [1.0]), 0.1)
