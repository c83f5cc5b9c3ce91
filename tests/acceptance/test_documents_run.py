"""Every document with commands, run from its first block to its last, over a broker of its own."""

import re
from pathlib import Path

import pytest

from tests.support import documents
from tests.support.command_lines import commands
from tests.support.documents import as_printed, blocks

HERE = Path(__file__).parent
TASK = """
import numpy as np
from client_worker import Task
from client_worker.models import linear_regression

def heart() -> Task:
    return Task(linear_regression(1), (np.ones((2, 1)), np.ones(2)))
"""
RUN: dict[str, dict[str, str]] = {  # as they stand, beside these files
    "docs/tutorial.md": {},
    "docs/bring-your-own.md": {},
    "docs/class-imbalance.md": {},
    "docs/hooks.md": {},
    "docs/notebook.md": {},
    "docs/scaling.md": {},
    "docs/security.md": {"tasks.py": TASK},
}
CHINESE = (
    "README.zh.md",
    "docs/zh/bring-your-own.md",
    "docs/zh/deploy.md",
    "docs/zh/tutorial.md",
)
BY_THEMSELVES = {  # in tests of their own
    "README.md": "test_readme.py",
    "docs/deploy.md": "test_deploy.py",
    "docs/models.md": "test_models_page.py",
    "docs/frameworks.md": "../torch/test_frameworks_page.py",  # where PyTorch is
    "docs/maintenance.md": "test_deploy.py",
    **dict.fromkeys(CHINESE, "../repo/test_documents_in_chinese.py"),  # blocks of the English ones
}


@pytest.mark.long  # TensorFlow starts several times
@pytest.mark.parametrize("document", RUN)
def test_its_commands_do_and_print_what_it_says(document: str, tmp_path: Path) -> None:
    said = documents.run(blocks(document), tmp_path, files=RUN[document])
    promised = [line for block in blocks(document, "text") for line in block.text.splitlines()]
    missing = [line for line in promised if as_printed(line) not in as_printed(said)]
    assert not missing, said


TRAIN_EACH = """
import inspect, sys
from pathlib import Path
import numpy as np
from client_worker import Task
from coordinator_worker import FederatedCoordinator

class Shared:  # what leaves a client, which need not be all of its model
    def __init__(self, client):
        self.get_weights = client.weights

    def set_weights(self, weights):
        pass


sys.path.insert(0, "")
for name in sorted(path.stem for path in Path().glob("*.py")):
    for function in vars(__import__(name)).values():
        if not inspect.isfunction(function) or function.__module__ != name:
            continue
        if not issubclass(inspect.get_annotations(function).get("return", int), Task):
            continue
        clients = [function(shard=shard).client() for shard in (0, 1)]
        coordinator = FederatedCoordinator([Shared(clients[0])])
        losses = []
        for _ in range(5):
            updates = [client.train(coordinator.weights) for client in clients]
            assert all(any(np.abs(array).max() > 0 for array in update.delta) for update in updates)
            losses.append(sum(update.metrics.get("loss", 0.0) for update in updates))
            coordinator.send(coordinator.aggregate(updates))
        assert losses[-1] <= losses[0], losses
        print("trained", name, function.__name__)
"""


@pytest.mark.long
def test_every_task_of_bring_your_own_learns(tmp_path: Path) -> None:
    """Also those that its commands do not name."""
    some = [block for block in blocks("docs/bring-your-own.md", "python") if block.name]
    documents.save(some, tmp_path)
    told = documents.run_python(TRAIN_EACH, tmp_path)
    wanted = sum(len(re.findall(r"\) -> (?:Keras)?Task:", block.text)) for block in some)
    assert told.count("trained") == wanted == 9


def test_no_document_has_a_command_that_no_test_runs() -> None:
    untested = [
        str(block)
        for document in documents.documents()
        for block in blocks(document)
        if block.needs_test and document not in {*RUN, *BY_THEMSELVES}
    ]
    assert not untested, (
        "add the document to RUN, or make it `console` (only shown), `python shown`"
    )
    for document, test in BY_THEMSELVES.items():
        assert document in (HERE / test).read_text(), f"{test} does not run {document}"


def test_the_tutorial_takes_fifteen_lines_and_four_commands() -> None:
    """A figure of ours: a Keras model of one's own, federated over two terminals."""
    task, _ = blocks("docs/tutorial.md", "python")
    own = [line for line in task.text.splitlines() if re.match(r"\s*[^#\s]", line)]
    assert len(own) <= 15
    first, second, *_ = blocks("docs/tutorial.md", "sh")
    assert len([*commands(first.text), *commands(second.text)]) <= 4
