"""Whatever an enrolled client does, the coordinator lives and the others' rounds close."""

from collections.abc import Iterator

import pytest

from broker_config.node.record import Node
from coordinator_worker.storage import checkpoint
from tests.acceptance.scene import MEMBERS, RUN, WEIGHTS, Scene
from tests.acceptance.withstood import ACTS, Act, Hostile, markdown
from tests.conftest import new_place
from tests.support.processes import ROOT


@pytest.fixture(scope="module")
def scene(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with new_place(node) as place:
        found = Scene(place, tmp_path_factory.mktemp("withstood"))
        found.honest_round()
        found.began = found.seen()
        try:
            yield found
        finally:
            found.close()


@pytest.mark.parametrize(
    "act", [pytest.param(act, id=act.name) for acts in ACTS.values() for act in acts]
)
def test_the_coordinator_withstands(scene: Scene, act: Act) -> None:
    before = scene.seen()
    act.does(Hostile(scene.place, act.user, RUN, scene.version, WEIGHTS))
    scene.honest_round()
    after = scene.seen()
    assert scene.coordinator.process.poll() is None
    assert after.version > before.version
    assert act.bound.holds(before, after), (act.bound.words, before, after)
    if act.reason is not None:
        rejected = _rejected(scene, before.version)
        assert rejected == ({act.reason} if act.reason else set())
    assert after.members <= MEMBERS
    assert after.checkpoint < 3 * WEIGHTS.layout.size_bytes + (1 << 20)
    assert after.audit - before.audit < 200_000


def _rejected(scene: Scene, since: int) -> set[str]:
    state = checkpoint.load(scene.folder)
    assert state is not None
    return {why for r in state.history if r.version > since for why in r.rejected}


def test_after_all_of_it_nothing_has_grown(scene: Scene) -> None:
    for _ in range(3):
        scene.honest_round()
    after = scene.seen()
    assert scene.began is not None
    assert after.resident < scene.began.resident + (24 << 20)
    state = checkpoint.load(scene.folder)
    assert state is not None
    assert {"loss", "eval_loss"} <= set(state.history[-1].metrics)
    assert state.history[-1].metrics["eval_loss"] == pytest.approx(0.5)
    waiting = scene.connection.channel().queue_declare("update", passive=True)
    assert waiting.method.message_count == 0


def test_the_table_of_the_document_is_this() -> None:
    assert sum(map(len, ACTS.values())) >= 40
    assert markdown() in (ROOT / "docs/security.md").read_text()
