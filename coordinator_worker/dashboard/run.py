"""The dashboard from its start to its end, and the page that is kept of a run."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from coordinator_worker.dashboard.page import page
from coordinator_worker.dashboard.server import DashboardServer
from coordinator_worker.dashboard.sse import Frames
from coordinator_worker.monitoring.follower import Follower, fetch_snapshot
from warren_shared.config.settings import WorkerSettings
from warren_shared.errors import ConfigError, Stopped


def serve(
    given: WorkerSettings,
    address: tuple[str, int],
    stopped: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Show the federation to browsers until ``stopped``; says where it is to be seen.

    Raises ConfigError if the address cannot be had.
    """
    news = threading.Event()
    follower = Follower(given.broker, f"dashboard · {given.federation}", lambda _event: news.set())
    frames = Frames(follower, news)
    try:
        server = DashboardServer(address, frames)
    except (OSError, OverflowError) as error:
        host, port = address
        raise ConfigError(
            f"--address {host} --port {port} cannot be had ({error}): choose another port"
        ) from None

    def leave() -> None:
        stopped.wait()
        follower.leave()

    threading.Thread(target=leave, daemon=True).start()
    with suppress(Stopped), server, follower:
        for work in (frames.make, server.serve_forever):
            threading.Thread(target=work, daemon=True).start()
        news.set()
        where = f"http://{_in_url(address[0])}:{server.server_port}/"
        say(f"the dashboard of {given.federation} is at {where}")
        if not server.local_only:
            say("everybody who reaches that address can look on: there is no login")
        stopped.wait()
        frames.close()
        server.shutdown()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def save(given: WorkerSettings, path: Path) -> None:
    """Write the page with what is known now into ``path``: it needs nothing else.

    Raises ConfigError if nothing is known, or the file cannot be written.
    """
    found = fetch_snapshot(given.broker, f"dashboard · {given.federation}")
    if found is None:
        raise ConfigError(
            f"nothing is known of {given.federation} yet: no coordinator has run on this broker"
        )
    try:
        path.write_bytes(page(found.as_dict())[0])
    except OSError as error:
        raise ConfigError(f"--save {path} cannot be written: {error}") from None
