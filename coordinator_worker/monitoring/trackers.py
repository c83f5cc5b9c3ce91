"""Runs where a team already looks: MLflow and Weights & Biases. Settings, figures, the best model.

A tracker is slow, and may be away; so what it is to be told waits for a thread of its own, and
what it does not take costs a warning and never a round. A run that goes on after a restart goes on
in the same run of the tracker.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Full, Queue
from typing import Any, Final, Protocol

from coordinator_worker.monitoring.client_figures import ClientCurves
from coordinator_worker.monitoring.events import (
    Event,
    RoundClosed,
    RoundContributions,
    RunEnds,
    RunEvaluated,
)
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.storage.provenance import setup_of
from coordinator_worker.storage.store import BEST_FILE
from coordinator_worker.versions.history import aligned
from warren_shared.errors import ConfigError
from warren_shared.observability.log import Log

log = Log(__name__)

TAG: Final = "warren.run"
MOST_WAITING: Final = 10_000  # rounds, while the tracker does not answer
END_S: Final = 60.0  # for what still waits when the coordinator ends
MAX_VALUE: Final = 500  # characters of a setting, which MLflow takes

Figures = Mapping[str, float]


class Tracker(Protocol):
    """A tracker's own side; every method may be slow and may fail."""

    def begin(self, run: str, settings: Mapping[str, str]) -> None:
        """Begin the run, or go on with it."""
        ...

    def add(self, version: int, figures: Figures) -> None:
        """Figures of one version."""
        ...

    def end(self, reason: str, model: Path | None) -> None:
        """The run ends, for ``reason`` if there is one; ``model`` is a file to keep."""
        ...


class Tracking:
    """A listener that tells a tracker, on a thread of its own.

    ``name`` is the flag that asked for it; ``folder`` the checkpoint's; with ``clients`` it is told
    each client's figures, too.
    """

    def __init__(
        self,
        tracker: Tracker,
        name: str,
        settings: Mapping[str, str],
        folder: Path,
        *,
        clients: bool = False,
    ) -> None:
        self._clients = ClientCurves() if clients else None
        self._tracker = tracker
        self._name = name
        self._settings = settings
        self._folder = folder
        self._queue: Queue[Callable[[], None] | None] = Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._run = ""
        self._reason = ""
        self._has_failed = False

    def on_event(self, event: Event) -> None:
        """Take note of a round that closed, and of why a run ends."""
        if isinstance(event, RunEnds):
            self._reason = event.reason
        elif isinstance(event, RunEvaluated):
            figures = {f"metric/{name}": value for name, value in event.metrics.items()}
            self._put(lambda: self._tracker.add(event.version, figures))
        elif isinstance(event, RoundContributions) and self._clients is not None:
            for version, told in self._clients.figures(event.version, event.updates):
                self._put(lambda v=version, f=told: self._tracker.add(v, f))  # type: ignore[misc]
        elif isinstance(event, RoundClosed):
            if event.run != self._run:
                self._run = event.run
                self._put(lambda: self._tracker.begin(event.run, self._settings))
            for row in aligned([event.record]):
                version = int(row.pop("version"))
                row.pop("time", None)
                figures = {
                    name if "/" in name else f"round/{name}": float(value)
                    for name, value in row.items()
                    if isinstance(value, (int, float))
                }
                if figures:
                    self._put(lambda v=version, f=figures: self._tracker.add(v, f))  # type: ignore[misc]

    def close(self) -> None:
        """Tell the rest; what is not told in END_S is in the checkpoint alone."""
        if self._thread is None:
            return
        best = self._folder / BEST_FILE
        model = best if best.exists() else _newest(self._folder)
        self._put(lambda: self._tracker.end(self._reason, model))
        self._put(None)
        self._thread.join(END_S)
        if self._thread.is_alive():
            log.warning("tracker_failed", "%s: not all was taken in %d s", self._name, END_S)

    def _put(self, work: Callable[[], None] | None) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        with suppress(Full):
            self._queue.put_nowait(work)

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception as error:
                if not self._has_failed:
                    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
                    words = "%s: %s; this is said once, and rounds go on"
                    log.exception("tracker_failed", words, self._name, said, error=error)
                self._has_failed = True


def _newest(folder: Path) -> Path | None:
    """The file of the newest version that is kept."""
    found = list((folder / "versions").glob("*.safetensors"))
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _settings(settings: CoordinatorSettings) -> dict[str, str]:
    given = setup_of(settings)["settings"]
    told = {name: str(value)[:MAX_VALUE] for name, value in given.items()}
    return told | {"federation": settings.federation}


# --- MLflow ---------------------------------------------------------------------------------------


class Mlflow:
    """One run of the experiment that is called as the federation."""

    def __init__(self, uri: str, federation: str) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise ConfigError("--mlflow needs MLflow: pip install 'warren-fl[mlflow]'") from None
        self._make: Callable[[], Any] = partial(MlflowClient, tracking_uri=uri)
        self._federation = federation
        self._client: Any = None
        self._id = ""

    def begin(self, run: str, settings: Mapping[str, str]) -> None:
        """Begin the run, or go on with it."""
        self._client = self._client or self._make()
        known = self._client.get_experiment_by_name(self._federation)
        number = (
            known.experiment_id
            if known is not None
            else self._client.create_experiment(self._federation)
        )
        found = self._client.search_runs([number], f"tags.`{TAG}` = '{run}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        made = self._client.create_run(number, run_name=run, tags={TAG: run})
        self._id = made.info.run_id
        for name, value in settings.items():
            self._client.log_param(self._id, name, value)

    def add(self, version: int, figures: Figures) -> None:
        """Figures of one version, at that step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1e3)
        told = [Metric(name, value, now, version) for name, value in figures.items()]
        self._client.log_batch(self._id, metrics=told)

    def end(self, reason: str, model: Path | None) -> None:
        """The run ends; one that was only stopped may go on."""
        if reason:
            self._client.set_tag(self._id, "warren.ended", reason)
        if model is not None:
            self._client.log_artifact(self._id, str(model), "model")
        self._client.set_terminated(self._id, "FINISHED" if reason else "KILLED")


# --- Weights & Biases -----------------------------------------------------------------------------


class Wandb:
    """One run of the project ``project``."""

    def __init__(self, project: str, folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError("--wandb needs wandb: pip install 'warren-fl[wandb]'") from None
        self._library = wandb
        self._project = project
        self._folder = folder
        self._run: Any = None
        self._last = 0

    def begin(self, run: str, settings: Mapping[str, str]) -> None:
        """Begin the run, or go on with it."""
        quiet = self._library.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True,
            x_disable_machine_info=True,
        )  # fmt: skip
        self._run = self._library.init(
            project=self._project, id=run, name=run, resume="allow", dir=str(self._folder),
            config=dict(settings), settings=quiet,
        )  # fmt: skip

    def add(self, version: int, figures: Figures) -> None:
        """Figures of one version; of one that was told before they stand at the newest."""
        self._last = max(self._last, version)
        self._run.log(dict(figures), step=self._last)

    def end(self, reason: str, model: Path | None) -> None:
        """The run ends."""
        if reason:
            self._run.summary["ended"] = reason
        if model is not None:
            kept = self._library.Artifact("model", type="model")
            kept.add_file(str(model))
            self._run.log_artifact(kept)
        self._run.finish(exit_code=0)


def from_settings(settings: CoordinatorSettings) -> list[Tracking]:
    """The trackers that ``settings`` name.

    Raises:
        ConfigError: an extra is not installed.
    """
    found: list[tuple[Tracker, str]] = []
    if settings.mlflow is not None:
        found.append((Mlflow(settings.mlflow, settings.federation), "--mlflow"))
    if settings.wandb is not None:
        found.append((Wandb(settings.wandb, settings.checkpoint_dir), "--wandb"))
    told = _settings(settings)
    folder, clients = settings.checkpoint_dir, settings.client_curves
    return [Tracking(tracker, name, told, folder, clients=clients) for tracker, name in found]
