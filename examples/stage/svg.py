"""Two small charts as inline SVG, coloured by the page's style sheet."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 500, 260
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 14, 34
ROW = 34
NAMES = 190
TITLE = 14
SLACK = 1e-9  # what rounding does to a quotient


def ticks(low: float, high: float, count: int = 5) -> list[tuple[float, str]]:
    """About ``count`` round values between ``low`` and ``high``, and how they are written."""
    power = 10.0 ** floor(log10((high - low) / count))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit * count >= high - low)
    digits = max(0, -floor(log10(step) + SLACK))
    numbers = range(ceil(low / step - SLACK), floor(high / step + SLACK) + 1)
    return [(number * step, f"{number * step:.{digits}f}") for number in numbers]


def curves(lines: Sequence[Sequence[float]], name: str) -> str:
    """Thin lines, one for each run, and their mean as a thick one, over rounds from 1.

    ``name`` is the title of the vertical axis.
    """
    values = [value for line in lines for value in line]
    low, high = min(values), max(values)
    high = high if high > low else low + 1.0
    longest = max(len(line) for line in lines)

    def point(index: int, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * index / max(1, longest - 1)
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    def path(line: Sequence[float], css: str) -> str:
        points = " ".join(point(index, value) for index, value in enumerate(line))
        return f'<polyline class="{css}" points="{points}"/>'

    grid = ""
    for value, written in ticks(low, high):
        y = float(point(0, value).partition(",")[2])
        grid += f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        grid += f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
        grid += f"{written}</text>"
    for index in sorted({0, longest // 2, longest - 1}):
        x = float(point(index, low).partition(",")[0])
        grid += f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="middle">'
        grid += f"{index + 1}</text>"
    whole = [line for line in lines if len(line) == longest]
    mean = [sum(column) / len(whole) for column in zip(*whole, strict=True)]
    drawn = "".join(path(line, "thin") for line in lines) + path(mean, "thick")
    middle, centre = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    titles = f'<text class="tick" x="{middle}" y="{HEIGHT - 1}" text-anchor="middle">round</text>'
    titles += f'<text class="tick" transform="translate(12 {centre}) rotate(-90)" '
    titles += f'text-anchor="middle">{escape(name)}</text>'
    return _svg(WIDTH, HEIGHT, name, f"{grid}{drawn}{titles}")


def dots(rows: Sequence[tuple[str, str, float, Sequence[float]]], name: str) -> str:
    """A dot for each model's mean and a fainter one for each run: (heading, class, mean, runs).

    ``name`` is the title of the horizontal axis.
    """
    values = [value for *_, runs in rows for value in runs]
    low, high = min(values), max(values)
    margin = (high - low or 1.0) * 0.05
    low, high = low - margin, min(1.0, high + margin) if high <= 1.0 else high + margin
    height = ROW * len(rows) + BOTTOM + TITLE

    def x(value: float) -> float:
        return NAMES + (WIDTH * 1.6 - NAMES - 60) * (value - low) / (high - low)

    drawn = ""
    for value, written in ticks(low, high, count=6):
        drawn += f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="4" '
        drawn += f'y2="{height - BOTTOM - TITLE + 4}"/><text class="tick" x="{x(value):.1f}" '
        drawn += f'y="{height - TITLE - 10}" text-anchor="middle">{written}</text>'
    drawn += f'<text class="tick" x="{(x(low) + x(high)) / 2:.1f}" y="{height - 5}" '
    drawn += f'text-anchor="middle">{escape(name)}</text>'
    for number, (heading, css, mean, runs) in enumerate(rows):
        y = ROW * number + ROW / 2
        drawn += f'<text class="name {css}" x="{NAMES - 12}" y="{y + 4}" text-anchor="end">'
        drawn += f"{escape(heading)}</text>"
        drawn += "".join(
            f'<circle class="run {css}" cx="{x(v):.1f}" cy="{y}" r="4"/>' for v in runs
        )
        drawn += f'<circle class="mean {css}" cx="{x(mean):.1f}" cy="{y}" r="7"/>'
        drawn += f'<text class="tick" x="{x(high) + 10:.1f}" y="{y + 4}">{mean:.3f}</text>'
    return _svg(int(WIDTH * 1.6), height, name, drawn)


def _svg(width: int, height: int, name: str, content: str) -> str:
    label = escape(name, quote=True)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{content}</svg>'
