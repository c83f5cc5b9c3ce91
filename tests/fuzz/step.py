"""The coordinator's step: any sequence of deliveries, and what must be true after each.

A byte string is read as instructions: who sends what, which field of it is wrong, when a round
closes, when the link is lost. So a fuzzer that only knows bytes gets deep into the intake.
"""

from collections import Counter
from typing import Any, Final

import numpy as np

from coordinator_worker.aggregation import Cohort
from coordinator_worker.aggregation.aggregators import mean
from coordinator_worker.rounds.incoming_update import IncomingUpdate
from coordinator_worker.rounds.intake import Intake
from coordinator_worker.rounds.norm_bound import UpdateNormLimit
from coordinator_worker.rounds.outcome import Accepted, Joined, Outcome, Refused
from coordinator_worker.rounds.policy import Policy
from coordinator_worker.rounds.round import Round
from coordinator_worker.state.training_state import State
from tests.fuzz.decoder import OPENER, SEALER, WIRE
from tests.fuzz.frames import honest, hostile
from tests.fuzz.instructions import VALUES, Instructions, packed
from tests.support.bodies import staging
from warren_shared.naming import speaks_for
from warren_shared.protocol.codec import encode, tensor_entries
from warren_shared.protocol.messages import (
    Chunk,
    InitialManifest,
    Join,
    Notice,
    Probe,
    UpdateManifest,
)
from warren_shared.protocol.transfer import transfer_fields
from warren_shared.tensors.layout import Layout, Weights, bytes_of

USERS: Final = ("alfa", "bravo", "phone", "coordinator", None)
CLIENTS: Final = ("alfa", "bravo", "phone.0", "phone.1", "phone", "ALFA", "alfa.")
RUN: Final = "ab" * 4
MAX_STEPS: Final = 60
SMALL = Layout.of([np.zeros(3, np.float32), np.zeros(2, np.float64)])
# Two messages; its first megabyte is the same each time and costs a hash.
LARGE = Layout.of([np.zeros((1 << 18) + 2, np.float32)])


class Coordinator:
    """The intake, a round and a ledger, driven as the worker drives them."""

    def __init__(self, layout: Layout, memory_bytes: int) -> None:
        self.layout = layout
        self.staging = staging(memory_bytes)
        self.policy = Policy(quorum=3, max_staleness=1, max_examples=1000)
        self.intake = Intake("f", self.policy, self.staging, OPENER, UpdateNormLimit("auto"))
        self.state: State | None = None
        self.tag = 0
        self.open: set[int] = set()
        self.dead: set[int] = set()  # tags of what came again over the same channel
        self.queue: dict[int, tuple[bytes, str | None]] = {}
        self.counted: Counter[tuple[str, int]] = Counter()
        self.begin()

    def begin(self) -> None:
        self.round = Round(Cohort(self.layout, mean()))

    def deliver(self, body: bytes, user: str | None, properties: bytes | None = None) -> None:
        self.tag += 1
        self.open.add(self.tag)
        self.queue[self.tag] = (body, user)
        delivery = WIRE.deliver(body, self.tag, honest(user) if properties is None else properties)
        assert delivery.user == user
        outcome = self.intake.receive(delivery, self.state)
        self.check(outcome, user)
        if isinstance(outcome, Accepted):
            self.take(outcome.arrival)
        self.settle(outcome.acknowledgeable)
        if self.round.updates >= self.policy.quorum:
            self.close()
        assert self.staging._held_bytes <= max(self.staging.memory_bytes, 0) + (1 << 20)
        arriving = self.intake._arriving.values()
        held = {tag for arrival in arriving for tag in arrival.tags} | set(self.round.tags)
        assert self.open == held - self.dead, "a delivery was forgotten"

    def check(self, outcome: Outcome, user: str | None) -> None:
        """Nobody is believed but the broker."""
        if isinstance(outcome, Accepted | Joined):
            assert user is not None
            assert speaks_for(user, outcome.client or "")
        if isinstance(outcome, Refused):
            assert outcome.rejected.reason
            assert len(outcome.rejected.detail) < 1000
            assert (
                outcome.client is None
                or user is None
                or outcome.client == user
                or (speaks_for(user, outcome.client))
            )

    def take(self, arrival: IncomingUpdate) -> None:
        manifest = arrival.manifest
        if isinstance(manifest, InitialManifest):
            if self.state is None and arrival.layout == self.layout:
                weights = Weights.uninitialized(arrival.layout)
                for start, data in arrival.chunks():
                    weights.buffer[start : start + len(data)] = data
                assert all(np.isfinite(tensor).all() for tensor in weights)
                self.state = State("f", RUN, 5, weights, applied={})
            arrival.release()
            self.settle(arrival.tags)
            return
        assert self.state is not None
        assert manifest.run == self.state.run
        assert 0 <= self.state.version - manifest.base_version <= self.policy.max_staleness
        assert manifest.num_examples <= self.policy.max_examples
        self.counted[manifest.client, manifest.base_version] += 1
        assert self.counted[manifest.client, manifest.base_version] == 1, "counted twice"
        self.round.fold(arrival)

    def close(self) -> None:
        assert self.state is not None
        delta, divisor, *_ = self.round.cohort.delta()
        for before, change in zip(self.state.weights, delta, strict=True):
            change /= divisor
            change += before
            assert np.isfinite(change).all()
        record = self.round.record(self.state.version + 1)
        self.state = self.state.after(delta, self.round.contributions, record, 1)
        self.settle(self.intake.round_closed(self.state))
        self.settle(self.round.tags)
        self.begin()

    def lose_link(self) -> None:
        """All that is unacknowledged comes again, in order."""
        self.intake.reset()
        assert self.staging._held_bytes == 0 or self.round.updates
        for contribution in self.round.contributions:
            self.counted[contribution] -= 1
        self.round.cohort.release()
        self.begin()
        again = [self.queue[tag] for tag in sorted(self.open)]
        self.open.clear()
        for body, user in again:
            self.deliver(body, user)

    def lose_sight(self) -> None:
        """All that is unacknowledged comes again, over the channel that never noticed."""
        again = [self.queue.pop(tag) for tag in sorted(self.open)]
        self.dead |= self.open
        self.open.clear()
        for body, user in again:
            self.deliver(body, user)

    def settle(self, tags: Any) -> None:
        for tag in tags:
            if tag in self.dead:
                continue
            assert tag in self.open, "settled twice"
            self.open.remove(tag)
            del self.queue[tag]


class Sender:
    """Clients who are right in most things."""

    def __init__(self, told: Instructions, coordinator: Coordinator) -> None:
        self.told, self.to = told, coordinator
        self.chunks: list[bytes] = []

    def next(self) -> bytes:
        told = self.told
        match told.below(9):
            case 0:
                return told.bytes(told.below(40))
            case 1:
                return self.spoilt(Join(federation=self.federation(), client="alfa").header())
            case 2:
                return self.body(self.initial())
            case 3 if self.chunks:
                return self.chunks.pop(told.below(len(self.chunks)))
            case 4:
                other = (Probe(), Notice(notice="join"), Chunk(transfer="ab" * 8, index=1))
                return b"".join(encode(other[told.below(3)], b"x" * told.below(3)))
            case _:
                return self.body(self.update())

    def federation(self) -> str:
        return "f" if self.told.below(16) else "g"

    def data(self) -> Weights:
        weights = Weights.empty(self.to.layout)
        what = self.told.below(12)
        weights[0].flat[0] = (1, 2, -3, 0.5, 0, 7, 8, 9, 1e-30, float("nan"), float("inf"), 1e18)[
            what
        ]
        return weights

    def update(self) -> tuple[dict[str, Any], Weights]:
        told, weights, state = self.told, self.data(), self.to.state
        client = CLIENTS[told.below(len(CLIENTS)) if not told.below(4) else told.below(4)]
        version = state.version if state is not None else 5
        fields = {
            "kind": "update", "federation": self.federation(),
            "run": RUN if told.below(16) else "cd" * 4, "client": client,
            "base_version": max(0, version + (0, 0, 0, -1, -2, 1)[told.below(6)]),
            "num_examples": (1, 5, 1000, 1001)[told.below(4)], "layout": weights.layout.digest,
            **transfer_fields(weights.buffer), "transfer": f"{told.below(6):016x}",
        }  # fmt: skip
        if told.below(2):
            UpdateManifest.model_validate(fields | {"client": "alfa"})
        return {"protocol": 1, **fields}, weights

    def initial(self) -> tuple[dict[str, Any], Weights]:
        weights = self.data()
        manifest = InitialManifest(
            federation="f", client=("alfa", "bravo")[self.told.below(2)],
            tensors=tensor_entries(weights.layout), **transfer_fields(weights.buffer),
        )  # fmt: skip
        return manifest.header(), weights

    def body(self, what: tuple[dict[str, Any], Weights]) -> bytes:
        header, weights = what
        view = bytes_of(weights.buffer)
        for index in range(1, -(-len(view) // (1 << 20))):
            chunk = Chunk(transfer=header["transfer"], index=index)
            part = view[index << 20 : (index + 1) << 20]
            self.chunks.append(b"".join(encode(chunk, part)))
        return self.spoilt(header, bytes(view[: 1 << 20]))

    def spoilt(self, header: dict[str, Any], data: bytes = b"") -> bytes:
        """A body as it should be, or with one thing wrong."""
        told = self.told
        wrong = told.below(12)
        if wrong == 0 and header:
            names = sorted(header)
            header[names[told.below(len(names))]] = VALUES[told.below(len(VALUES))]
        elif wrong == 1:
            header["more"] = 1
        elif wrong == 2:
            data = data[: told.below(len(data) + 1)]
        body = packed(header, data)
        if wrong == 3:
            at = told.below(256) % max(1, min(len(body), 200))
            body = body[:at] + bytes([told.below(256)]) + body[at + 1 :]
        return b"".join(SEALER.seal((body,))) if wrong == 4 else body


def run(data: bytes) -> None:
    """Whatever a coordinator is sent; raises nothing but AssertionError if something is wrong."""
    told = Instructions(data)
    large = told.below(8) == 0
    coordinator = Coordinator(LARGE if large else SMALL, (0, 1 << 30)[told.below(2)])
    if told.below(4):
        weights = Weights.empty(coordinator.layout)
        coordinator.state = State("f", RUN, 5, weights, applied={})
    sender = Sender(told, coordinator)
    for _ in range(MAX_STEPS):
        if not told:
            break
        step = told.below(40)
        if step == 0:
            coordinator.lose_link()
        elif step == 2:
            coordinator.lose_sight()
        elif step == 1 and coordinator.state is not None and coordinator.round.updates:
            coordinator.close()
        else:
            user = USERS[told.below(len(USERS)) if not told.below(3) else told.below(3)]
            properties = hostile(told, user) if told.below(6) == 5 else None
            coordinator.deliver(sender.next(), user, properties)
    coordinator.lose_link()
