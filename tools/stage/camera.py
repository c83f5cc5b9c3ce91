"""Photographs of pages by Debian's Chromium, small enough for a repository."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console, RenderableType
from rich.terminal_theme import TerminalTheme

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
MAX_BYTES = 150_000
COLORS = 256
COLORED = TerminalTheme(
    (18, 22, 30),
    (214, 219, 228),
    [(40, 46, 58), (240, 100, 90), (90, 200, 120), (230, 190, 80), (90, 150, 240), (200, 120, 220),
     (90, 200, 220), (214, 219, 228)],
)  # fmt: skip
# Rich's own frame fetches a font from elsewhere.
TERMINAL = """<!doctype html><meta charset="utf-8"><style>{stylesheet}
body {{ background: #12161e; color: #d6dbe4; margin: 0; padding: 14px; width: max-content }}
pre {{ font: 14px/1.35 "DejaVu Sans Mono", monospace; margin: 0 }}</style>
<pre>{code}</pre>"""


@dataclass
class Camera:
    """Takes pictures into ``folder``."""

    browser: Browser
    folder: Path

    def open(self, url: str, width: int, height: int, scheme: str = "light") -> Page:
        """A page in a window of that size."""
        page = self.browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page.goto(url)
        return page

    def take(self, page: Page, name: str, where: str = "body", high: int = 10_000) -> None:
        """What the selector ``where`` names, at most ``high`` pixels of it, as ``name``.png."""
        shot = page.locator(where).first.screenshot()
        image = Image.open(BytesIO(shot)).convert("RGB")
        image = image.crop((0, 0, image.width, min(image.height, high)))
        path = self.folder / f"{name}.png"
        image.quantize(COLORS, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path} is {path.stat().st_size} bytes: show less of it")

    def take_terminal(self, drawn: RenderableType, name: str, width: int, height: int) -> None:
        """What a terminal of that size shows."""
        console = Console(
            record=True, width=width, height=height, file=StringIO(),
            force_terminal=True, color_system="truecolor", highlight=False,
        )  # fmt: skip
        console.print(drawn)
        page = self.browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_content(console.export_html(theme=COLORED, code_format=TERMINAL))
        self.take(page, name)


@contextmanager
def camera(folder: Path) -> Iterator[Camera]:
    """A camera; its browser is gone afterwards."""
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("chromium is missing: apt-get install chromium fonts-dejavu")
    folder.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield Camera(browser, folder)
        finally:
            browser.close()
