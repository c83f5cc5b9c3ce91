"""A region's models come from the federation above, each as one version."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from client_worker.runtime.mailbox import GlobalModel, Shelved
from coordinator_worker.runtime.model_publisher import ModelPublisher
from coordinator_worker.runtime.upstream import Origin, UpstreamFederation
from coordinator_worker.state.training_state import State
from coordinator_worker.storage.store import ABOVE
from warren_shared.errors import Stopped
from warren_shared.protocol.model_header import ModelHeader
from warren_shared.tensors.layout import Weights

RUN = "ab" * 4


def weights(value: float) -> Weights:
    return Weights.of([np.full(4, value, np.float32)])


def header(version: int) -> ModelHeader:
    return ModelHeader(federation="f", run=RUN, version=version, final=True)


def publisher(version: int, value: float) -> ModelPublisher:
    session = SimpleNamespace(resume_publishing=lambda: None)
    return ModelPublisher.announce(session, weights(value), header=header(version))  # type: ignore[arg-type]


def source(folder: Path, version: int) -> UpstreamFederation:
    """Of a region whose checkpoint and model from above are ``version``."""
    above = GlobalModel(publisher(7, 7.0).manifest, Shelved(weights(7.0), is_whole=True))
    Origin.read(folder / ABOVE).put(version, above)
    state = State("f", RUN, version, weights(1.0), applied={})
    store = SimpleNamespace(folder=folder, state=state, settle=lambda: None)
    resources = SimpleNamespace(store=store, loop=None, disk_retry=None)
    found = UpstreamFederation(None, {}, resources)  # type: ignore[arg-type]
    found.begin(state.weights)  # of a federation that has ended, so no client begins
    return found


def test_a_version_in_the_checkpoint_is_the_model_from_above(tmp_path: Path) -> None:
    mine, out = weights(1.0), publisher(1, 1.0)
    source(tmp_path, 1).provide(out, mine)
    np.testing.assert_array_equal(mine[0], 7.0)


def test_a_region_that_ends_before_its_checkpoint_is_written_gives_no_older_model(
    tmp_path: Path,
) -> None:
    """Stopped while the disk was full it published version 1's model once more, as version 2."""
    region, mine, out = source(tmp_path, 1), weights(2.0), publisher(2, 2.0)
    out.hold_last_chunk()
    with ThreadPoolExecutor(1) as sender:
        providing = sender.submit(region.provide, out, mine)
        region.abandon(out)
        with pytest.raises(Stopped, match="before version 2"):
            providing.result()
    np.testing.assert_array_equal(mine[0], 2.0)
