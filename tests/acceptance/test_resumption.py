"""A run that was killed again and again is, bit for bit, the run that was not."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from broker_config.declaration.federation import Fleet
from broker_config.node.record import Node
from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.acceptance.test_federation import start_coordinator
from tests.conftest import Place, new_place
from tests.support.processes import workers
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.messages import UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.compression import RAW, encode
from warren_shared.tensors.layout import Weights

RUN = "ab" * 4
ROUNDS, QUORUM = 10, 3
LAYOUT = Weights.of(
    [np.zeros(CHUNK_BYTES // 4 + 99, np.float32), np.zeros(7)]  # two chunks, two dtypes
).layout


def publish_updates(place: Place, encoding: str) -> None:
    """Thirty replicas' updates to version 0, the same whenever they are published."""
    draw = np.random.default_rng(7)
    session = Session.for_broker(place.urls["fleet"], "test")
    session.start(10)
    for number in range(ROUNDS * QUORUM):
        delta = Weights.of([draw.normal(size=t.shape).astype(t.dtype) for t in LAYOUT.tensors])
        transfer, buffer = f"{number:016x}", delta.buffer
        if encoding != RAW:
            buffer = encode(delta, encoding, transfer)
        manifest = UpdateManifest(
            federation=place.name, run=RUN, client=f"fleet.{number}", base_version=0,
            num_examples=number + 1, layout=LAYOUT.digest, metrics={"loss": number / 7},
            encoding=encoding, **transfer_fields(buffer, transfer),
        )  # fmt: skip
        bodies = Outgoing(manifest, buffer)
        session.publish(
            [Publication("update", "update", body, "update", persistent=True) for body in bodies]
        )
    session.close()


def train(
    node: Node,
    folder: Path,
    algorithm: Sequence[str],
    kills: Sequence[tuple[str, dict[str, object]]],
) -> State:
    """The run's last state, with a coordinator that is killed at each of ``kills``.

    In a federation of its own: the broker lets no version of a run be made twice.
    """
    folder.mkdir()
    arguments = ("--quorum", str(QUORUM), "--max-staleness", "20", "--rounds", str(ROUNDS))
    arguments += tuple(algorithm)
    with (
        new_place(node, fleet=Fleet("fleet", ROUNDS * QUORUM)) as place,
        workers() as started,
    ):
        checkpoint.save(folder, State(place.name, RUN, 0, Weights.empty(LAYOUT), applied={}))
        encoding = algorithm[algorithm.index("--uplink") + 1] if "--uplink" in algorithm else RAW
        publish_updates(place, encoding)
        for action, fields in kills:
            started.append(start_coordinator(place, folder, *arguments))
            started[-1].wait_for(action, **fields)
            started[-1].kill()
        started.append(start_coordinator(place, folder, *arguments))
        assert started[-1].end() == 0
    state = checkpoint.load(folder)
    assert state is not None
    return state


ALGORITHMS = {
    "FedAvg": (),
    "one bit a parameter": ("--uplink", "1bit"),
    "one bit both ways": ("--uplink", "1bit", "--downlink", "1bit"),
    "robust, with moments": (
        *("--aggregator", "centered-clipping:radius=100", "--server-optimizer", "yogi"),
        *("--clip-norm", "1000"),
    ),
}


def timeless(record: RoundRecord) -> RoundRecord:
    """Without what depends on the clock, as does when the broker was asked who never came."""
    seen = {s: told for s, told in (record.participation or {}).items() if s != "unseen"}
    return replace(record, seconds=0.0, time=0.0, participation=seen)


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_killed_or_not_the_same_updates_make_the_same_bits(
    node: Node, tmp_path: Path, algorithm: Sequence[str]
) -> None:
    undisturbed = train(node, tmp_path / "undisturbed", algorithm, [])
    killed = train(
        node,
        tmp_path / "killed",
        algorithm,
        [
            ("update_accepted", {"client": "fleet.1"}),
            ("model_published", {"version": 1}),
            ("update_accepted", {"client": "fleet.10"}),
            ("connected", {}),
            ("model_published", {"version": 5}),
            ("update_accepted", {"client": "fleet.25"}),
        ],
    )
    assert killed.version == undisturbed.version == ROUNDS
    assert killed.weights.buffer.tobytes() == undisturbed.weights.buffer.tobytes()
    assert killed.weights.buffer.any()
    assert killed.slots.keys() == undisturbed.slots.keys()
    for name, slot in undisturbed.slots.items():
        assert killed.slots[name].buffer.tobytes() == slot.buffer.tobytes()
    assert killed.applied == undisturbed.applied
    assert list(map(timeless, killed.history)) == list(map(timeless, undisturbed.history))
    members = [
        {name: asdict(replace(member, seen=0.0)) for name, member in state.roster.items()}
        for state in (killed, undisturbed)
    ]
    assert members[0] == members[1]
