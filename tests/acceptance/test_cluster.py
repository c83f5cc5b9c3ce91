"""Three RabbitMQ nodes, one of which is cut off from the others for a while and comes back.

``make cluster`` plays these often, and with each way that RabbitMQ has of handling a partition.
"""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.cluster.cases import CASES, play
from tests.cluster.nodes import cluster

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("case", CASES)
def test_a_node_that_was_cut_off_costs_no_update_and_stops_nobody(
    case: str, tmp_path: Path
) -> None:
    # Not below pytest's own folder, which outlives the run: it holds passwords.
    root = Path(tempfile.mkdtemp(prefix="warren-cluster-"))
    try:
        with cluster(root) as nodes:
            reckoning, stuck = play(case, nodes, tmp_path / "run")
    finally:
        shutil.rmtree(root)
    assert stuck == []
    assert reckoning.is_exact, reckoning
    assert reckoning.updates_confirmed > 3
