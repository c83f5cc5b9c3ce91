"""The documents as a site: it is built as `make site` builds it, and looked at in a browser."""

import os
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import pytest
from playwright.sync_api import Browser

from tests.support.browser import chromium, opened
from tests.support.processes import ROOT

REFERS: Final = ("data", "href", "poster", "src", "srcset")


class Parsed(HTMLParser):
    """What there is to link to in a page, and what the page refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.references: list[tuple[str, str]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            elif name in REFERS and value:
                self.references.append((tag, value))


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and prints nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site").resolve()
    # Not the flags of the make that runs the tests, such as its job server.
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    subprocess.run(["make", "site", f"OUT={folder}"], cwd=ROOT, env=environment, check=True)
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Parsed]:
    return {path: Parsed(path) for path in site.rglob("*.html")}


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_every_document_is_a_page(site: Path) -> None:
    documents = ["README", "CHANGELOG", *(f"docs/{path.stem}" for path in ROOT.glob("docs/*.md"))]
    documents += [f"docs/zh/{path.stem}" for path in ROOT.glob("docs/zh/*.md")]
    assert len(documents) > 25
    assert [name for name in documents if not (site / f"{name}.html").is_file()] == []
    assert "Federation(task=None" in (site / "docs" / "reference.html").read_text()


def test_no_link_inside_the_site_is_dead(site: Path, pages: dict[Path, Parsed]) -> None:
    dead = []
    for path, page in pages.items():
        for _, reference in page.references:
            parts = urlsplit(reference)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[there].ids if there in pages else set()
            if not there.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                dead.append(f"{path.relative_to(site)}: {reference}")
    assert dead == []


def test_nothing_that_a_page_loads_comes_from_elsewhere(
    site: Path, pages: dict[Path, Parsed]
) -> None:
    loaded = [(tag, value) for page in pages.values() for tag, value in page.references]
    assert any(tag == "script" for tag, _ in loaded)
    absolute = [value for tag, value in loaded if tag != "a" and urlsplit(value).netloc]
    assert absolute == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    for word in ("url(http", 'url("http', "url('http", "url(//", "@import"):
        assert word not in styles


def test_a_browser_asks_no_other_server(address: str, browser: Browser) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in ("index.html", "docs/zh/tutorial.html", "search.html?q=quorum"):
        page.goto(f"{address}/{name}", wait_until="networkidle")
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((address, "data:"))] == []


def test_the_navigation_is_that_of_the_contents(address: str, browser: Browser) -> None:
    page = opened(browser, f"{address}/index.html")
    captions = page.locator(".sidebar-tree .caption-text").all_inner_texts()
    sections = [
        line.removeprefix("## ")
        for line in (ROOT / "docs" / "README.md").read_text().splitlines()
        if line.startswith("## ")
    ]
    assert [caption.lower() for caption in captions] == [section.lower() for section in sections]
    page.get_by_role("link", name="教程与常用配方").click()
    page.get_by_role("heading", name="教程与常用配方").wait_for()
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert page.errors == []


# An English word; one in a title; within a sentence; beside an English one; on two lines.
@pytest.mark.parametrize(
    ("words", "found", "not_found"),
    [
        ("stragglers", "benchmarks/README.html", "docs/zh/tutorial.html"),
        ("配方", "docs/zh/tutorial.html", "docs/tutorial.html"),
        ("协调器", "docs/zh/tutorial.html", "docs/tutorial.html"),
        ("Keras 互不共享", "docs/zh/tutorial.html", "docs/tutorial.html"),
        ("缓冲区作为", "docs/zh/bring-your-own.html", "docs/bring-your-own.html"),
    ],
)
def test_the_search_finds_words_of_both_languages(
    address: str, browser: Browser, words: str, found: str, not_found: str
) -> None:
    page = opened(browser, f"{address}/search.html?q={quote(words)}")
    page.locator(f'#search-results li a[href^="{found}"]').first.wait_for()
    page.locator(".search-summary", has_text="Search finished").wait_for()
    assert page.locator(f'#search-results li a[href^="{not_found}"]').count() == 0
    assert page.errors == []
