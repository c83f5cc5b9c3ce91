"""The run, and the files that it leaves."""

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np

from coordinator_worker.monitoring.event_publisher import Events
from coordinator_worker.monitoring.events import (
    Event,
    LinkActive,
    LinkConnected,
    LinkLost,
    LinkStandby,
    Stamped,
)
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.monitoring.prometheus import Metrics
from coordinator_worker.monitoring.reporter import RunReporter
from coordinator_worker.state import roster
from coordinator_worker.state.round_record import (
    ClientReport,
    Entry,
    EvaluationSummary,
    FinalFigures,
    Judgement,
    RegionResult,
    RoundRecord,
)
from coordinator_worker.state.training_state import Best, State, with_figures
from coordinator_worker.storage import checkpoint, version_archive
from coordinator_worker.storage.audit_log import Audit
from coordinator_worker.terminal import event_lines
from coordinator_worker.versions import history, rollback
from warren_shared import strict_json, weights_file
from warren_shared.amqp.publisher import Publication
from warren_shared.errors import Rejected
from warren_shared.naming import STATE_QUEUE
from warren_shared.observability.event_bus import EventBus, Phase, Timings
from warren_shared.protocol.messages import EvaluationEntry, Failed, ModelManifest, UpdateManifest
from warren_shared.tensors.evaluation import Evaluation
from warren_shared.tensors.layout import Weights

FEDERATION: Final = "clinics"
RUN: Final = "ab" * 4
NOW: Final = 1_700_000_000.0  # advances by a second with each step of the run
QUORUM: Final = 2
# What a round's record was before there were times, judgements and participation in it.
OLD: Final[Mapping[str, Any]] = {
    "version": 1, "updates": 2, "examples": 40, "incomplete": 0, "rejected": {},
    "metrics": {"loss": 1.5}, "evaluation": None, "norm": 0.5, "bytes_up": 80, "seconds": 2.0,
}  # fmt: skip


class Outbox:
    """Where events leave the process."""

    def __init__(self) -> None:
        self.events: list[bytes] = []

    def post(self, message: Publication) -> None:
        if message.routing_key != STATE_QUEUE:
            (body,) = message.body
            event = json.loads(body)
            assert message.routing_key == event["event"]
            self.events.append(bytes(body))


class Run:
    """Six versions: an old record, rejected updates, a round that diverged, a rollback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOW
        self.outbox, bus = Outbox(), EventBus[Event]()
        self.metrics = Metrics(FEDERATION, QUORUM)
        bus.subscribe([self.metrics])
        self.audit = Audit(folder)
        events = Events(self.outbox, bus, federation=FEDERATION)  # type: ignore[arg-type]
        self.reporter = RunReporter(events, QUORUM)
        self.state = State(
            FEDERATION,
            RUN,
            1,
            weights(1),
            {"alfa": frozenset({0})},
            (RoundRecord.from_dict(OLD),),
            setup=SETUP,
            fixed_state={"words": "cd" * 8},
        )

    def play(self) -> None:
        """All of it."""
        with (
            patch("time.time", lambda: self.now),
            patch("coordinator_worker.monitoring.prometheus.time", lambda: self.now),
        ):
            self._begin()
            self._round(2, ("alfa", "bravo"), {"loss": 0.5, "eval_auc": 0.75})
            self._evaluated(2)
            self._amiss()
            self._round(3, ("alfa", "charlie"), {"loss": nan, "eval_auc": nan, "wide": inf})
            self._round(4, ("alfa", "bravo.7"), {}, diverged="norm: infinite")
            self._roll_back(2)
            self._round(6, ("bravo.7", "alfa"), {"loss": 0.25, "eval_auc": 0.875}, region=True)
            self._end()
            self.audit.give_back()
            checkpoint.save(self.folder, replace(self.state, audit_head=self.audit.head))

    def _step(self) -> None:
        self.now += 1.0

    def _begin(self) -> None:
        self.audit.take_over(self.state)
        for what in (LinkConnected, LinkActive):
            self.reporter.link(what)
        self._published(model(1))
        for client in ("alfa", "bravo", "charlie", "bravo.7"):
            self._step()
            self.reporter.joined(client)
            members = roster.joined(self.state.roster, client, self.now)
            self.state = replace(self.state, roster=members)

    def _round(
        self, version: int, clients: tuple[str, str], metrics: dict[str, float], **more: Any
    ) -> None:
        for place, client in enumerate(clients, start=1):
            self._step()
            manifest = update(client, version - 1 - (place == 2), metrics)
            self.audit.accepted(manifest, version)
            self.reporter.accepted(manifest, version - 1, place, 0.5 * place)
        phases = timed(clients)
        counts = [(client, 10 * place) for place, client in enumerate(clients, start=1)]
        self.state = replace(
            self.state, roster=roster.contributed(self.state.roster, version, counts, self.now)
        )
        record = round_closed(self, version, clients, metrics, **more)
        self.reporter.judged(record, {"eval_auc": "--monitor"})
        entries = [Entry(c, version - 1, n, 1.5 * n, "ef" * 4, f"{n:016x}") for c, n in counts]
        if "diverged" in more:
            self.reporter.diverged(version - 1, ValueError(more["diverged"]))
        self.state = self.state.after(
            weights(version), [(client, version - 1) for client in clients], record, 3
        )
        self.audit.aggregated(version, entries, more.get("diverged"))
        self._step()
        self.reporter.closed(RUN, record, phases)
        self._published(model(version), phases)

    def _published(self, manifest: ModelManifest, phases: Timings | None = None) -> None:
        self.audit.published(self.state.version, manifest.digest, manifest.content)
        self.reporter.published(self.state, manifest, phases or Timings())

    def _rejected(self, client: str, rejected: Rejected, user: str) -> None:
        self.audit.rejected(user, client, rejected)
        self.reporter.rejected(client, rejected, enrolled=False)

    def _flooded(self, user: str | None, rejected: Rejected, *, first: bool) -> None:
        self.audit.flooded(user)
        self.reporter.flooded(user, rejected, first=first)

    def _evaluated(self, version: int) -> None:
        figures = {"rank": 0.5, "auc": nan}
        self._step()
        self.reporter.evaluated(version, figures)
        self.state = with_figures(self.state, version, evaluated=figures)
        best = Best(version, 0.75)
        self.reporter.found_best(best)
        self.state = replace(self.state, best=best)

    def _amiss(self) -> None:
        """All that can be said of what goes wrong."""
        self._step()
        say = self.reporter
        say.failed(Failed(federation=FEDERATION, client="bravo", reason="KeyError: 'age'"))
        say.failed(Failed(federation=FEDERATION, client="bravo", reason="out of data", ends=True))
        self._rejected("charlie", Rejected("norm", "its norm is 1e30"), "charlie")
        self._rejected("bravo.7", Rejected("stale", "trained from version 0"), "bravo")
        for first in (True, False):
            self._flooded("charlie", Rejected("malformed", "rubbish"), first=first)
        self._flooded(None, Rejected("identity", "nobody vouches"), first=False)
        say.alive()
        say.alive(("charlie",))
        say.waiting(0)
        self._rejected("alfa", Rejected("norm", "its norm is 1e30"), "alfa")
        say.overdue(3, 1, 1)
        say.stalled(OSError(28, "No space left on device"))
        say.recovered()
        for what in (LinkLost, LinkConnected, LinkStandby, LinkActive):
            say.link(what)

    def _roll_back(self, version: int) -> None:
        self._step()
        self.state = rollback.rolled_back(
            self.state, weights(version), version, f"version {version}"
        )
        self.audit.rolled_back(self.state)
        self._published(model(self.state.version))

    def _end(self) -> None:
        version = self.state.version
        final = FinalFigures(version, 2, 30, {"eval_auc": 0.9, "eval_loss": nan})
        self._step()
        self.state = with_figures(self.state, version, final_evaluation=final)
        self.reporter.final_evaluated(version, final.metrics)
        self.reporter.ends(version, "--rounds 6 are made")
        self._published(model(version, final=True))
        self.reporter.stopped()


def round_closed(
    run: Run,
    version: int,
    clients: tuple[str, str],
    metrics: dict[str, float],
    *,
    region: bool = False,
    diverged: str | None = None,
) -> RoundRecord:
    """The record of a round."""
    judged = {"eval_auc": Judgement(2, 0.5, nan, nan)} if metrics else {}
    evaluation = Evaluation(12, {"loss": 0.25}, confusion=((5, 1), (2, 4)))
    return RoundRecord(
        version=version,
        updates=2,
        examples=30,
        incomplete=version % 2,
        rejected={"norm": 2, "stale": 1} if version == 3 else {},
        clients={
            client: ClientReport(10 * place, metrics)
            for place, client in enumerate(clients, start=1)
        },
        metrics=metrics,
        evaluation=EvaluationSummary(version - 1, 2, 12) if metrics else None,
        norm=0.75,
        bytes_up=40 * version,
        seconds=2.5,
        time=run.now,
        judged=judged,
        above=RegionResult(30, evaluation) if region else None,
        diverged=diverged,
        participation=roster.summary(roster.participation(run.state.roster, version)),
    )


SETUP: Final[tuple[dict[str, Any], ...]] = (
    {"version": 0, "settings": {"aggregator": "mean", "quorum": 2}, "software": {"warren-fl": "1"}},
)


def weights(value: float) -> Weights:
    """A model of five numbers."""
    return Weights.of([np.full(4, value, np.float32), np.array(float(value))])


def model(version: int, *, final: bool = False) -> ModelManifest:
    """How a version was announced."""
    return ModelManifest(
        transfer="ab" * 4, size_bytes=24, digest=version, federation=FEDERATION, run=RUN,
        version=version, final=final, content="cd" * 32,
        tensors=[{"name": "w", "shape": [1], "dtype": "float32"}],
    )  # fmt: skip


def update(client: str, base: int, metrics: Mapping[str, float]) -> UpdateManifest:
    """What came from a client."""
    broken = [name for name, value in metrics.items() if not abs(value) < inf]
    return UpdateManifest(
        transfer="ef" * 4, size_bytes=24, digest=7, federation=FEDERATION, run=RUN, client=client,
        base_version=base, num_examples=10, layout="ab" * 8, not_finite=broken,
        metrics={name: value for name, value in metrics.items() if name not in broken},
        evaluation=EvaluationEntry(num_examples=5, means={"auc": 0.5}),
    )  # fmt: skip


def timed(clients: tuple[str, ...]) -> Timings:
    """What a round's time went into."""
    phases = Timings()
    phases.began = 1.0
    phases.done = [
        Phase("fold", 1.0 + place, 1.5 + place, {"client": c, "base_version": 0, "norm": 0.5})
        for place, c in enumerate(clients)
    ]
    for place, name in enumerate(("aggregate", "checkpoint", "publish", "acknowledge")):
        phases.done.append(Phase(name, 3.0 + place, 3.25 + place, {}))
    return phases


def written(run: Run) -> dict[str, bytes]:
    """The files of text, by name."""
    view = FederationView()
    lines = []
    for body in run.outbox.events:
        stamped = Stamped.from_dict(json.loads(body))
        view.apply(stamped)
        if (line := event_lines.line(stamped)) is not None:
            lines.append(line)
    return {
        "history.jsonl": history_of(run.state, "jsonl").encode(),
        "history.csv": history_of(run.state, "csv").encode(),
        "events.jsonl": b"\n".join(run.outbox.events) + b"\n",
        "state.json": strict_json.dumps(view.as_dict()).encode() + b"\n",
        "lines.txt": "".join(f"{line}\n" for line in lines).encode(),
        "metrics.txt": exposition(run.metrics),
    }


def history_of(state: State, ending: str) -> str:
    """What `coordinator-worker history` prints with ``--json`` or ``--csv -``."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if ending == "csv":
            history.to_csv(state.history, Path("-"))
        else:
            history.to_json(state.history)
    return printed.getvalue()


def exposition(metrics: Metrics) -> bytes:
    """What Prometheus is shown of the federation."""
    from prometheus_client import generate_latest

    shown = generate_latest(metrics.meters.registry).decode().splitlines()
    return "".join(f"{line}\n" for line in shown if line.startswith("warren_")).encode()


def write(folder: Path) -> None:
    """Play the run in ``folder`` and write its files there."""
    run = Run(folder)
    run.play()
    for name, data in written(run).items():
        (folder / name).write_bytes(data)
    facts = version_archive.facts(run.state, 7, "2023-11-14T22:13:20+00:00")
    weights_file.write(folder / "version-6.safetensors", run.state.weights, facts)
