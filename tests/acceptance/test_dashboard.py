"""The web dashboard: a real federation in a real browser, and what must not happen in one."""

import http.client
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page

from coordinator_worker.cli import main
from coordinator_worker.monitoring.event_publisher import Events
from coordinator_worker.monitoring.events import (
    CoordinatorAlive,
    CoordinatorStalled,
    RoundClosed,
    RoundOverdue,
    UpdateAccepted,
    UpdateRejected,
)
from coordinator_worker.state.round_record import ClientReport, RoundRecord
from tests.acceptance.test_watch import federated, round_closed, seen, until
from tests.conftest import CLIENTS, FLEET, Place
from tests.support.browser import chromium, opened
from tests.support.processes import BIN, DEADLINE_S, ROOT, workers
from warren_shared.amqp.session import Session
from warren_shared.observability.event_bus import EventBus

NEVER_CAME = {*CLIENTS, FLEET.name} - {"alfa", "bravo"}
HOSTILE = '<img src=x onerror="window.hacked=1"><script>hacked=1</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@contextmanager
def dashboard(place: Place, *words: str) -> Iterator[str]:
    """Where a dashboard of the federation is."""
    command = [BIN / "coordinator-worker", "dashboard", "--port", "0", *words]
    command += ["--broker-url", place.urls["watcher"]]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield re.search(r"http://\S+", line)[0]  # type: ignore[index]
        finally:
            process.terminate()
            try:
                assert process.wait(DEADLINE_S) == 0
            finally:
                process.kill()


@contextmanager
def coordinator(place: Place) -> Iterator[Events]:
    """Only what a coordinator says, under a federation's name that somebody thought up."""
    session = Session.for_broker(place.urls["coordinator"], "coordinator")
    session.start(patience_s=10.0)
    try:
        yield Events(session, EventBus(), federation=HOSTILE)
    finally:
        session.close()


def answer(url: str, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=DEADLINE_S)
    connection.request(method, path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    return response.status, response.read().decode()


def count(page: Page, selector: str) -> int:
    return page.locator(selector).count()


def cells(page: Page) -> dict[str, list[str]]:
    """The clients' rows by name, read at once: each event draws them anew."""
    read = "[...document.querySelectorAll('#clients tbody tr')].map(row => "
    rows = page.evaluate(read + "[...row.cells].map(cell => cell.textContent))")
    return {row[0]: row for row in rows}


def test_a_federation_is_seen_as_it_runs_and_a_reload_keeps_its_history(
    place: Place, tmp_path: Path, browser: Browser
) -> None:
    rounds = 8
    with workers() as started, dashboard(place) as url:
        page = opened(browser, url)
        page.get_by_text("No round has closed yet.").first.wait_for()
        federated(place, tmp_path, started, rounds)
        page.locator(f"#metric-chart circle:nth-of-type({rounds})").wait_for()
        page.get_by_text("finished").wait_for()
        assert [worker.end() for worker in started] == [0, 0, 0]
        for again in (False, True):
            if again:
                page.reload()
                page.locator(f"#metric-chart circle:nth-of-type({rounds})").wait_for()
            assert count(page, "#metric-chart circle") == rounds
            assert count(page, "#heat-chart .cell.fresh") == 2 * rounds
            assert page.title() == f"{place.name} · version {rounds}"
            assert page.locator("#metric option").all_text_contents() == ["eval_loss", "loss"]
            quorum = page.get_by_role("progressbar")
            assert quorum.get_attribute("aria-valuemax") == "2"
            rows = cells(page)
            assert rows["alfa"][1] == rows["bravo"][1] == "in"
            assert {name for name, row in rows.items() if row[1] == "unseen"} == NEVER_CAME
            assert "54.5 %" in rows["bravo"]
            assert count(page, "#staleness-chart rect") == 1
            assert count(page, "#traffic-chart .bar.up") == rounds
        page.select_option("#metric", "loss")
        label = page.locator("#metric-chart svg").get_attribute("aria-label")
        assert label is not None
        assert label.startswith("loss from ")
        assert titles_of_axes(page) == {
            "metric-chart": ["loss", "round"],
            "staleness-chart": ["updates", "versions late"],
            "traffic-chart": ["bytes", "round"],
            "heat-chart": ["round"],
        }
        assert page.errors == []


def titles_of_axes(page: Page) -> dict[str, list[str]]:
    """By chart, without what a title says of itself when one points at it."""
    names = ("metric-chart", "staleness-chart", "traffic-chart", "heat-chart")
    words = "found => found.map(title => title.firstChild.data)"
    return {name: page.locator(f"#{name} .axis").evaluate_all(words) for name in names}


def accepted(events: Events, client: str, have: int, **metrics: float) -> None:
    events.post(
        UpdateAccepted(
            client=client, version=0, base_version=0, staleness=0, examples=10, size_bytes=100,
            norm=0.5, metrics=metrics, quorum=(have, 4),
        )
    )  # fmt: skip


def test_the_quorum_bar_grows_while_one_looks_on(place: Place, browser: Browser) -> None:
    with coordinator(place) as events, dashboard(place) as url:
        page = opened(browser, url)
        for have, name in enumerate(("alfa", "bravo", "charlie"), start=1):
            accepted(events, name, have)
            page.locator(f'#quorum[aria-valuenow="{have}"][aria-valuemax="4"]').wait_for()
            assert page.locator("#quorum-figures").inner_text() == f"{have} of 4"
        bar, filled = (page.locator(where).bounding_box() for where in ("#quorum", "#quorum div"))
        assert bar is not None
        assert filled is not None
        assert filled["width"] / bar["width"] == pytest.approx(0.75, abs=0.01)


def test_what_others_call_themselves_is_shown_and_never_run(place: Place, browser: Browser) -> None:
    names = {HOSTILE: 1.0, "constructor": 2.0, "__proto__": 3.0, "toString": 4.0}
    with coordinator(place) as events, dashboard(place) as url:
        accepted(events, HOSTILE, 1, **names)
        events.post(UpdateRejected(HOSTILE, HOSTILE, HOSTILE))
        events.post(RoundOverdue(1, (1, 4)))
        events.post(CoordinatorStalled(HOSTILE))
        for version, metrics in ((1, names), (2, {"loss": 1.0})):  # 2 has none that is so called
            record = RoundRecord(
                version, updates=1, bytes_up=1, metrics=metrics,
                clients={HOSTILE: ClientReport(1, {})}, seconds=1.0, time=time.time(),
            )  # fmt: skip
            events.post(RoundClosed(HOSTILE, record))
        accepted(events, HOSTILE, 1, **names)
        events.post(UpdateRejected(HOSTILE, HOSTILE, HOSTILE))
        events.post(CoordinatorStalled(HOSTILE))
        page = opened(browser, url)
        page.locator("#metric-chart circle").first.wait_for()
        page.locator("#rejected tbody tr").first.wait_for()
        for name in names:
            page.select_option("#metric", name)
        assert page.evaluate("window.hacked") is None
        assert count(page, "img") == 0
        assert count(page, "script") == 1
        places = ("#title", "#run", "#trouble", "#clients", "#heat-chart", "#rejected", "#metric")
        for where in places:
            told = page.locator(where).evaluate("node => node.textContent")
            assert "<img src=x" in told, where
        assert page.errors == []


def test_a_script_that_came_in_all_the_same_would_not_run(place: Place, browser: Browser) -> None:
    with dashboard(place) as url:
        page = opened(browser, url)
        page.evaluate(
            "() => { const made = document.createElement('script');"
            " made.textContent = 'window.hacked = true'; document.body.append(made); }"
        )
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=hacked=1>')"
        )
        assert page.evaluate("window.hacked") is None
        assert any("Content Security Policy" in error for error in page.errors)


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_is_as_wide_as_the_window(place: Place, browser: Browser, width: int) -> None:
    with coordinator(place) as events, dashboard(place) as url:
        for name in ("alfa", "a-client-with-a-name-that-is-rather-long"):
            accepted(events, name, 1, loss=0.5, eval_accuracy=0.5)
        for version in range(1, 40):
            round_closed(events, version)
        page = opened(browser, url, width=width)
        page.locator("#metric-chart circle").first.wait_for()
        page.locator("#heat-chart .cell").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for chart in page.locator("main svg").all():
            box = chart.bounding_box()
            assert box is not None
            assert box["width"] > 240
            assert box["x"] + box["width"] <= width


def test_it_is_dark_for_those_who_like_it_so(place: Place, browser: Browser) -> None:
    with dashboard(place) as url:
        seen = {
            scheme: opened(browser, url, scheme=scheme).evaluate(
                "getComputedStyle(document.body).backgroundColor"
            )
            for scheme in ("light", "dark")
        }
    assert seen == {"light": "rgb(245, 246, 248)", "dark": "rgb(17, 21, 28)"}


def test_of_a_thousand_clients_those_that_stand_out_are_shown_and_any_is_found(
    place: Place, browser: Browser
) -> None:
    with coordinator(place) as events, dashboard(place) as url:
        for number in range(1000):
            accepted(events, f"phone.{number}", 1)
        round_closed(events, 1)
        events.post(UpdateRejected("phone.777", "norm", "!"))
        round_closed(events, 2)
        page = opened(browser, url)
        page.get_by_text("961 more, which stand out less.").wait_for()
        assert count(page, "#clients tbody tr") == 40
        assert next(iter(cells(page))) == "phone.777"
        page.fill("#find", "phone.123")
        until(lambda: list(cells(page)) == ["phone.123"])


def test_a_dashboard_that_has_gone_is_missed(place: Place, browser: Browser) -> None:
    with dashboard(place) as url:
        page = opened(browser, url)
        page.locator("#link", has_text="live").wait_for()
    page.locator("#link.lost", has_text="does not answer").wait_for()


def test_a_coordinator_that_has_gone_without_a_word_is_missed_by_who_looks_later_too(
    place: Place, browser: Browser
) -> None:
    with dashboard(place) as url, coordinator(place) as events:
        first = opened(browser, url)
        events.post(CoordinatorAlive(0.5))
        first.locator("#link.lost", has_text="no sign of the coordinator for").wait_for()
        late = opened(browser, url)
        late.locator("#link.lost", has_text="no sign of the coordinator for").wait_for(timeout=900)
        events.post(CoordinatorAlive(15.0))
        for page in (first, late):
            page.locator("#link", has_text="live").wait_for()


def test_a_page_that_is_kept_needs_nobody(
    place: Place, tmp_path: Path, browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "run.html"
    words = ["dashboard", "--broker-url", place.urls["watcher"], "--save", str(kept)]
    assert main(words) == 2
    assert "nothing is known of" in capsys.readouterr().err
    with coordinator(place) as events:
        accepted(events, "</script><script>window.hacked=1</script>", 1)
        for version in range(1, 4):
            round_closed(events, version)
        seen(place.urls["watcher"], lambda picture: picture.version == 3)
    assert main(words) == 0
    page = opened(browser, kept.as_uri())
    assert count(page, "#metric-chart circle") == 3
    assert page.locator("#link").inner_text().startswith("as of ")
    assert page.evaluate("window.hacked") is None
    assert page.errors == []
    assert main([*words[:-1], str(tmp_path / "nowhere" / "run.html")]) == 2
    assert "--save" in capsys.readouterr().err


def test_only_this_machine_is_served_and_only_what_there_is(place: Place) -> None:
    with dashboard(place) as url:
        port = urlsplit(url).port
        assert answer(url, "/")[0] == 200
        assert answer(url, "/", host=f"localhost:{port}")[0] == 200
        assert answer(url, "/", host=f"evil.example:{port}")[0] == 403
        assert answer(url, "/events", host="evil.example")[0] == 403
        assert answer(url, "/", host="[")[0] == 403
        assert answer(url, "/../../etc/passwd")[0] == 404
        assert answer(url, "/", method="POST")[0] == 501
        told = json.loads(answer(url, "/state.json")[1])
        assert told["picture"]["version"] == 0


def test_a_browser_that_reads_nothing_keeps_nobody_waiting(place: Place, browser: Browser) -> None:
    with coordinator(place) as events, dashboard(place) as url:
        where = (urlsplit(url).hostname, urlsplit(url).port)
        lazy: list[Any] = []
        for _ in range(10):
            lazy.append(socket.create_connection(where))
            lazy[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            lazy[-1].sendall(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        for number in range(500):
            accepted(events, f"phone.{number}", 1)
        page = opened(browser, url)
        for version in range(1, 6):
            round_closed(events, version)
            page.locator("#run", has_text=f"version {version},").wait_for()
        for each in lazy:
            each.close()


def test_more_browsers_than_there_is_room_for_are_told(place: Place) -> None:
    with dashboard(place) as url:
        where = (urlsplit(url).hostname, urlsplit(url).port)
        watching = []
        for _ in range(64):
            watching.append(socket.create_connection(where))
            watching[-1].sendall(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert watching[-1].recv(12) == b"HTTP/1.0 200"
        assert answer(url, "/events")[0] == 503
        assert answer(url, "/")[0] == 200
        for each in watching:
            each.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "80000"], "80000 is not a port"),
        (["--port", "x"], "x is not a port"),
        (["--address", "nowhere.invalid"], "cannot be had"),
    ],
)
def test_what_cannot_be_is_one_line(
    place: Place, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["dashboard", "--broker-url", place.urls["watcher"], *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["dashboard", "--broker-url", place.urls["watcher"], "--port", str(port)]
        assert main(words) == 2
    assert "choose another port" in capsys.readouterr().err
