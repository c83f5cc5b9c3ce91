"""A curve as SVG: what a notebook shows while a run goes on, without a plotting library."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any, Final, Self

from warren_shared.errors import ConfigError

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 76, 130, 14, 40
COLOURS: Final = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#666666")
PREFIX: Final = "metric/"

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """Lines by name, each of points (version, value)."""

    lines: Mapping[str, Points]

    @classmethod
    def of(cls, history: Sequence[Mapping[str, Any]], metrics: Sequence[str] = ()) -> Self:
        """From rows as `Result.history` has them; without ``metrics`` those of losses, else all.

        Raises:
            ConfigError: there are none of these metrics.
        """
        found: dict[str, Points] = {}
        for row in history:
            for name, value in row.items():
                if name.startswith(PREFIX) and isinstance(value, (int, float)) and isfinite(value):
                    points = found.setdefault(name.removeprefix(PREFIX), [])
                    points.append((float(row["version"]), float(value)))
        if missing := [name for name in metrics if name not in found]:
            there = ", ".join(sorted(found)) or "none"
            raise ConfigError(f"no round has a metric {missing[0]}; there are {there}")
        chosen = list(metrics) or [n for n in found if "loss" in n] or list(found)
        if not chosen:
            raise ConfigError("no round has a metric: nothing can be drawn")
        return cls({name: found[name] for name in chosen[: len(COLOURS)]})

    def save(self, path: str | Path) -> None:
        """Write it to an ``.svg``."""
        Path(path).write_text(self.svg(), encoding="utf-8")

    def svg(self) -> str:
        """The picture."""
        return "".join(self._parts())

    def _repr_svg_(self) -> str:
        """What a notebook shows."""
        return self.svg()

    def _y_title(self) -> str:
        """The figure that is drawn, or what all of several are."""
        if len(self.lines) == 1:
            return next(iter(self.lines))[:30]
        return "loss" if all("loss" in name for name in self.lines) else "metric"

    def _parts(self) -> Iterator[str]:
        every = [point for points in self.lines.values() for point in points]
        left, right = _range([x for x, _ in every])
        low, high = _range([y for _, y in every])
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

        def at(x: float, y: float) -> str:
            across = LEFT + (x - left) / (right - left) * width
            return f"{across:.1f},{TOP + (high - y) / (high - low) * height:.1f}"

        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
            f' width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="11">'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
            f'<rect x="{LEFT}" y="{TOP}" width="{width}" height="{height}" fill="none"'
            ' stroke="#ccc"/>'
        )
        for share in (0.0, 0.5, 1.0):
            y = low + share * (high - low)
            place = TOP + (1 - share) * height + 4
            yield f'<text x="{LEFT - 6}" y="{place:.0f}" text-anchor="end">{y:.4g}</text>'
            x = left + share * (right - left)
            yield (
                f'<text x="{LEFT + share * width:.0f}" y="{TOP + height + 15}"'
                f' text-anchor="middle">{x:.4g}</text>'
            )
        yield (
            f'<text x="{LEFT + width / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">version</text>'
            f'<text transform="translate(14 {TOP + height / 2:.0f}) rotate(-90)"'
            f' text-anchor="middle">{escape(self._y_title())}</text>'
        )
        for number, (name, points) in enumerate(self.lines.items()):
            colour = COLOURS[number]
            path = " ".join(at(x, y) for x, y in points)
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
            if len(points) == 1:
                across, down = path.split(",")
                yield f'<circle cx="{across}" cy="{down}" r="2.5" fill="{colour}"/>'
            yield (
                f'<text x="{LEFT + width + 8}" y="{TOP + 12 + 16 * number}" fill="{colour}">'
                f"{escape(name[:20])}</text>"
            )
        yield "</svg>"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
