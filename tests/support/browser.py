"""Debian's Chromium, driven by Playwright: a page as people see it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DEADLINE_MS = 20_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; a test that has none fails."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is missing: `make test` installs it, or `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def opened(browser: Browser, url: str, *, width: int = 1200, scheme: str = "light") -> Page:
    """A page whose errors end the test that reads ``page_errors``."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(DEADLINE_MS)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda told: told.type == "error" and page.errors.append(told.text))
    page.goto(url)
    return page
