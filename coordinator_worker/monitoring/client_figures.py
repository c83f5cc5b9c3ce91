"""Each client's own figures of each round: into the checkpoint folder, and as curves."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from coordinator_worker.monitoring.events import Event, RoundContributions
from coordinator_worker.state.round_record import ClientFigures
from coordinator_worker.storage import client_history
from coordinator_worker.storage.client_history import ClientRound
from warren_shared.observability.log import Log

log = Log(__name__)

MAX_CURVES: Final = 100  # clients that have curves of their own
EVALUATED: Final = "eval_"


class ClientHistory:
    """A listener that appends each round to the file in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._has_failed = False

    def on_event(self, event: Event) -> None:
        """Write what clients said; a disk that does not take it costs the line, not the round."""
        if not isinstance(event, RoundContributions):
            return
        try:
            client_history.append(
                self._folder, ClientRound.of(event.run, event.version, event.updates)
            )
        except OSError as error:
            if not self._has_failed:
                log.warning(
                    "client_history_failed",
                    "%s cannot be written, so `history --clients` lacks rounds: %s",
                    self._folder / client_history.NAME,
                    error,
                )
            self._has_failed = True
        else:
            self._has_failed = False

    def close(self) -> None:
        """Nothing is open."""


class ClientCurves:
    """Which figures stand where: of MAX_CURVES clients, the first that contribute."""

    def __init__(self) -> None:
        self._clients: set[str] = set()
        self._is_full = False

    def figures(
        self, version: int, updates: Sequence[ClientFigures]
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Versions, and figures by name, such as ``client_loss/alfa``.

        What a client evaluated stands at the version that it evaluated.
        """
        for one in updates:
            if not self._has_room(one.client):
                continue
            steps: dict[int, dict[str, float]] = {}
            for name, value in {**one.metrics, "examples": float(one.examples)}.items():
                step = one.base_version if name.startswith(EVALUATED) else version
                steps.setdefault(step, {})[f"client_{name}/{one.client}"] = value
            yield from steps.items()

    def _has_room(self, client: str) -> bool:
        if client in self._clients:
            return True
        if len(self._clients) < MAX_CURVES:
            self._clients.add(client)
            return True
        if not self._is_full:
            log.info(
                "client_curves_full",
                "more than %d clients: the others have no curves; `history --clients` has them",
                MAX_CURVES,
            )
        self._is_full = True
        return False
