"""`Federation`: a broker, a coordinator and clients from Python, for as long as a block lasts."""

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final, Literal

from coordinator_worker.monitoring.events import Event, Posted
from coordinator_worker.settings import CoordinatorSettings
from warren_fl import settings, workers
from warren_fl.brokers import Broker, BundleFolder, CoordinatorUrl, PrivateBroker
from warren_fl.display import display
from warren_fl.result import Result
from warren_fl.run import Hears, Needs, Run
from warren_fl.settings import FLEET, Clients, MadeTask, Site
from warren_fl.workers import Client, Process, ProcessClient, ThreadClient
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.naming import COORDINATOR_USER
from warren_shared.observability.event_bus import Listener

URLS: Final = ("amqp://", "amqps://")


class Federation(AbstractContextManager["Federation"]):
    """A coordinator and clients that train a task together; everything ends with the block.

        with Federation("my_task:site", clients=4, quorum=3) as federation:
            result = federation.run(rounds=20)

    These are the workers that the command line runs, and a RabbitMQ of their own between them.

    Args:
        task: what to train: import path ``package.module:attribute``; with ``workers="threads"``
            also a Task or a callable that returns one.
        clients: how many; the task's parameter ``shard`` is 0, 1, … then. Or for each client its
            task or its task's arguments: a sequence, or a mapping by name.
        broker: None for a private broker in a temporary folder; the folder with the bundles of
            `broker-config` for one that is there; with ``clients=0`` also the coordinator's URL.
        workers: clients as ``processes``, or as ``threads`` of this process. The coordinator is a
            process in any case.
        on_event: a function of one event, a Listener, or several: called in this thread while a run
            is waited for. What they raise comes out of `run`.
        progress: False shows nothing; else a curve in a notebook, or a bar in a terminal.
        folder: where logs and checkpoints stay; without it they are in a temporary folder.
        options: the coordinator's settings by name (docs/settings.md), such as ``quorum``,
            ``max_staleness``, ``server_optimizer``, ``privacy``, ``config``. Without ``quorum`` a
            round takes an update of each of ``clients``.

    Raises:
        ConfigError: a setting is wrong, or a task cannot be made in a process of its own.
    """

    def __init__(
        self,
        task: MadeTask | None = None,
        clients: Clients = 4,
        *,
        broker: str | Path | None = None,
        workers: Literal["processes", "threads"] = "processes",
        on_event: Callable[[Posted], object] | Listener[Event] | Sequence[Any] = (),
        progress: bool | None = None,
        folder: str | Path | None = None,
        **options: Any,
    ) -> None:
        if workers not in ("processes", "threads"):
            raise ConfigError(f'workers={workers!r}: "processes" or "threads"')
        bundles = None
        is_url = isinstance(broker, str) and broker.startswith(URLS)
        if broker is not None and not is_url:
            bundles = BundleFolder.of(broker)
        fleet = FLEET
        if bundles is not None and isinstance(clients, int) and clients:
            fleet = bundles.fleet(clients)
        self._sites = settings.sites(task, clients, fleet)
        self._total = None if is_url else len(self._sites)  # clients of the federation
        if bundles is not None:
            self._total = bundles.places or None
        self._options = settings.check(
            options, len(self._sites), self._total, has_bundle=broker is not None
        )
        self._threads = workers == "threads"
        if not self._threads:
            settings.in_processes(self._sites)
        self._hears = _hears(on_event)
        self._progress = progress
        self._keeps = folder is not None
        self._folder = Path(folder or tempfile.gettempdir()).resolve()
        self._broker_given, self._bundles, self._is_url = broker, bundles, is_url
        self._has_block = False
        self._state: Literal["new", "open", "closed"] = "new"
        self._clients: list[Client] = []
        self._broker: Broker | None = None
        self._spare: Process | None = None  # a coordinator that has imported what it needs
        self._guardian: subprocess.Popen[bytes] | None = None
        self._run: Run | None = None
        self._runs = 0
        self._path: list[str] | None = None  # as it was before a task was looked for

    def __enter__(self) -> "Federation":
        """Start the broker and the clients.

        Raises:
            BrokerConfigError: there is no RabbitMQ, or it does not start.
        """
        self._has_block = True
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self.close()

    def run(self, rounds: int | None = None) -> Result:
        """Train for so many ``rounds``, or until the settings say that it is enough.

        Each run begins anew, unless a ``checkpoint_dir`` was given, where it goes on. Without a
        ``with`` block the federation is there for this run alone.

        Raises:
            FederationFailed: so many clients fail that no round can close, or the coordinator
                ended; the message has their reason.
        """
        told = self._told(rounds)
        self._open()
        try:
            return self._start(told).result()
        finally:
            if not self._has_block:
                self.close()

    def start(self, rounds: int | None = None) -> Run:
        """Begin a run and return its events: ``for event in federation.start(rounds=20)``.

        They are the classes of `coordinator_worker.monitoring.events`.

        Raises:
            ConfigError: a run is under way, nothing would end this one, or there is no block.
        """
        if not self._has_block:
            raise ConfigError(
                "start() needs a block that ends it: with Federation(…) as federation"
            )
        told = self._told(rounds)
        self._open()
        return self._start(told)

    def _told(self, rounds: int | None) -> dict[str, Any]:
        """The settings of a run, checked."""
        told = dict(self._options)
        if rounds is not None:
            told["rounds"] = rounds
        if not any(told.get(name) for name in ("rounds", "target", "patience")):
            raise ConfigError(
                "run(rounds=N): nothing else ends it (target, or monitor and patience)"
            )
        settings.check(
            told, len(self._sites), self._total, has_bundle=self._broker_given is not None
        )
        if self._run is not None and not self._run.is_over:
            raise ConfigError("a run is under way: end it with stop(), or take its result() first")
        return told

    @property
    def folder(self) -> Path:
        """Where logs and checkpoints are."""
        return self._folder

    def close(self) -> None:
        """End coordinator, clients and a private broker. May be called again."""
        if self._state != "open":
            self._state = "closed"
            return
        self._state = "closed"
        # On a thread, so that another Ctrl-C cuts our waiting short and not the work.
        ending = threading.Thread(target=self._end, name="end")
        ending.start()
        ending.join()

    # --- opening and closing --------------------------------------------------------------------

    def _open(self) -> None:
        if self._state == "open":
            return
        if self._state == "closed":
            raise ConfigError("this federation has ended: make another one")
        if not self._keeps:
            self._folder = Path(tempfile.mkdtemp(prefix="warren-"))
        self._state = "open"
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        logs = self._folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._broker = broker = self._make_broker()
        self._guard()
        broker.start()
        self._spare = self._coordinator()
        if self._threads:
            self._clients = [ThreadClient(site) for site in self._sites]
        else:
            threads = workers.threads_each(len(self._sites))
            for site in self._sites:  # one by one, so that an interrupt finds those that run
                self._clients.append(ProcessClient(site, logs, threads))
        broker.wait()
        self._path = list(sys.path)
        workers.begin_all(self._clients, broker)

    def _make_broker(self) -> Broker:
        if self._bundles is not None:
            return self._bundles
        if self._is_url:
            return CoordinatorUrl(str(self._broker_given), self._folder, len(self._sites))
        return PrivateBroker(self._folder, self._sites)

    def _guard(self) -> None:
        """Have somebody clean up if this process is killed."""
        words = [str(self._folder)] + ([] if self._keeps else ["remove"])
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "warren_fl.guardian", *words],
            env=workers.environment(1),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _coordinator(self) -> Process:
        log = self._folder / "logs" / "coordinator.log"
        return Process("coordinator-worker", log, [], threads=2)

    def _end(self) -> None:
        steps: list[Callable[[], object]] = [
            self._end_run,
            lambda: workers.stop_all(self._clients),
            lambda: self._broker.stop() if self._broker is not None else None,
            self._clean_up,
        ]
        failure: Exception | None = None
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001  the others have to end, too
                failure = failure or error
        if failure is not None:
            raise failure

    def _end_run(self) -> None:
        if self._run is not None:
            self._run.close()
        if self._spare is not None:
            self._spare.discard()

    def _clean_up(self) -> None:
        if not self._keeps:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.close()
            self._guardian.wait()
        here = str(Path.cwd())
        if self._threads and self._path is not None and here not in self._path:
            with suppress(ValueError):
                sys.path.remove(here)  # which finding a task by its import path has put there

    # --- a run ----------------------------------------------------------------------------------

    def _start(self, told: dict[str, Any]) -> Run:
        if self._broker is None:
            raise RuntimeError("not open")
        self._runs += 1
        coordinator, self._spare = self._spare or self._coordinator(), None
        folder = Path(told.setdefault("checkpoint_dir", self._folder / f"run-{self._runs}"))
        quorum = int(told.get("quorum", 2))
        least = quorum if told.get("deadline_s") is None else int(told.get("min_quorum", 1))
        needs = Needs(self._total, least) if self._total is not None else None
        hears = list(self._hears)
        shown = display(told.get("rounds")) if self._progress is not False else None
        if shown is not None:
            hears.append(shown.on_event)

        def finish(run: Run) -> Result:
            first: Site | None = self._sites[0] if self._sites else None
            config = _config(told.get("config", ()))
            outcome: dict[str, Any] = run.outcome()
            exchange = str(told.get("exchange", "all"))
            return Result(**outcome, site=first, exchange=exchange, config=config)

        self._run = Run(
            coordinator, self._clients, folder, needs, hears, finish,
            on_end=shown.close if shown is not None else None,
        )  # fmt: skip
        coordinator.begin(
            [
                *self._broker.login(COORDINATOR_USER), "--listen=warren_fl.feed:Feed",
                *settings.words(CoordinatorSettings, told),
            ]
        )  # fmt: skip
        return self._run


def _hears(given: Any) -> list[Hears]:
    """The functions that get events."""
    several = given if isinstance(given, list | tuple) else [given]  # a listener may be callable
    found: list[Hears] = []
    for each in several:
        if hasattr(each, "on_event"):
            found.append(each.on_event)
        elif callable(each):
            found.append(each)
        else:
            raise ConfigError(
                f"on_event: {type(each).__name__} is no function and has no method on_event(event)"
            )
    return found


def _config(words: Sequence[str]) -> dict[str, Any]:
    from coordinator_worker.settings import parse_config

    try:
        return dict(parse_config(tuple(words)))
    except WarrenError:
        return {}
