"""Takes the pictures of docs/monitoring.md from a running federation: ``make screenshots``.

They come out alike each time but for figures and times. Look at each before it is committed.
"""

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Page

from coordinator_worker.dashboard.run import serve
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.terminal.view import Still, TerminalView
from tools.stage.camera import Camera, camera
from tools.stage.scene import AWAY, BROKEN, NAME, NEVER, Scene, scene
from warren_shared.config.settings import WorkerSettings

IMAGES = Path(__file__).parents[1] / "docs" / "images"
STATISTICS_MS = 7000  # the management UI is up to five seconds behind
UNFOLDED_MS = 1500
COMPLETE_MS = 3000  # what happened while the dashboard began to listen has come after


def main() -> None:
    """Play the scene and photograph it."""
    with (
        tempfile.TemporaryDirectory(prefix="warren-screenshots-") as home,
        camera(IMAGES) as taker,
        scene(Path(home)) as played,
    ):
        played.until(version(6))
        played.end(AWAY)
        played.until(version(10))
        played.client(BROKEN, 7, examples=400, seconds=1.6, scale=60.0)
        played.until(version(34))
        terminal(taker, played)
        with dashboard(played) as url:
            web(taker, url)
        management(taker, played)
    for path in sorted(IMAGES.glob("*.png")):
        sys.stdout.write(f"{path.relative_to(IMAGES.parent)}  {path.stat().st_size} bytes\n")


def version(wanted: int) -> Callable[[FederationView], bool]:
    """Whether a picture is so far."""
    return lambda picture: picture.version >= wanted


def terminal(taker: Camera, played: Scene) -> None:
    """``watch`` in two sizes."""
    board = TerminalView(NAME, Still(played.until(lambda picture: picture.quorum[0] >= 3)))
    taker.take_terminal(board, "watch-80", 80, 24)
    taker.take_terminal(board, "watch-120", 120, 40)


@contextmanager
def dashboard(played: Scene) -> Iterator[str]:
    """Where the dashboard is."""
    told: SimpleQueue[str] = SimpleQueue()
    stopped = threading.Event()
    given = WorkerSettings(broker_url=played.node.broker_url("watcher"))
    serving = threading.Thread(target=serve, args=(given, ("127.0.0.1", 0), stopped, told.put))
    serving.start()
    yield told.get(timeout=30).rpartition(" ")[2]
    stopped.set()
    serving.join()


def web(taker: Camera, url: str) -> None:
    """The dashboard, light, dark and on a telephone."""
    for name, width, scheme, high in (
        ("dashboard", 1280, "light", 1500),
        ("dashboard-dark", 1280, "dark", 880),
        ("dashboard-narrow", 400, "light", 1150),
    ):
        page = taker.open(url, width, 900, scheme)
        page.locator("#heat-chart .cell").first.wait_for()
        page.locator("#rejected tbody tr").first.wait_for()
        page.wait_for_timeout(COMPLETE_MS)
        taker.take(page, name, high=high)
        page.close()


def management(taker: Camera, played: Scene) -> None:
    """RabbitMQ's own UI, where it shows the federation."""
    page = logged_in(taker, played, "watcher")
    for name, path, high in (
        ("ui-connections", "connections", 710),
        ("ui-queues", "queues", 770),
        ("ui-queue-update", f"queues/{NAME}/update", 800),
    ):
        page.evaluate(f"location.hash = '#/{path}'")
        page.wait_for_timeout(STATISTICS_MS)
        taker.take(page, name, high=high)
    page = logged_in(taker, played, "admin")  # who looks into messages needs to be that
    page.select_option("#update-every", label="Do not refresh")  # it would fold them up again
    for name, queue in (("ui-rejected", "update.rejected"), ("ui-mailbox", f"model.{NEVER}")):
        page.evaluate(f"location.hash = '#/queues/{NAME}/{queue}'")
        page.get_by_role("heading", name=f"Queue {queue}").wait_for()
        get = page.locator("form[action='#/queues/get'] input[type=submit]")
        if not get.is_visible():  # the UI remembers that it was opened before
            page.get_by_role("heading", name="Get messages").click()
        get.click()
        page.locator("#msg-wrapper .box").first.wait_for()
        page.wait_for_timeout(UNFOLDED_MS)
        taker.take(page, name, "#msg-wrapper", high=420)


def logged_in(taker: Camera, played: Scene, user: str) -> Page:
    """The management UI as ``user`` sees it."""
    where = urlsplit(played.node.management_url(user))
    # So high that nothing scrolls: the page within the page would be cut.
    page = taker.open(f"http://{where.hostname}:{where.port}", 1280, 3000)
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", where.password or "")
    page.click("input[type=submit]")
    page.select_option("#show-vhost", NAME)
    return page


if __name__ == "__main__":
    main()
