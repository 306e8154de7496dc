"""Plots as SVG, written by hand: what is drawn is what is said in the tables, and nothing is needed to draw it."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COLOURS = {
    "nginx": "#5b8c5a", "gateway": "#2458b3", "gateway-plain": "#7fa3de", "portkey": "#c9762b", "litellm": "#a8324a",
    "direct": "#888888",
}  # fmt: skip
_STYLE = (
    "text{font-family:Inter,'Helvetica Neue',Arial,sans-serif;font-size:12px;fill:#333}"
    ".title{font-size:15px;font-weight:600;fill:#111}.panel{font-weight:600}.faint{fill:#777;font-size:11px}"
    ".grid{stroke:#e4e4e4;stroke-width:1}.end{text-anchor:end}.middle{text-anchor:middle}.value{font-size:11px}"
)


def number(value: float) -> str:
    """Three digits, no exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _document(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}"><style>{_STYLE}</style>'
        f'<rect width="{width}" height="{height}" rx="8" fill="#fff" stroke="#ddd"/>'
        f'<text x="20" y="28" class="title">{escape(title)}</text>' + "\n".join(parts) + "</svg>\n"
    )


def _scale(values: Sequence[float], start: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """A logarithmic scale over whole decades, and where its lines are."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    return (
        lambda value: start + (math.log10(value) - low) / (high - low) * (end - start),
        [10.0**power for power in range(low, high + 1)],
    )


def dots(title: str, panels: Sequence[tuple[str, Mapping[str, float]]], labels: Mapping[str, str]) -> str:
    """Panels two and two; in each a row for every target, its value as a dot on a logarithmic axis."""
    wide, row = 440, 24
    tall = 66 + row * max(len(values) for _, values in panels)
    parts: list[str] = []
    for place, (name, values) in enumerate(panels):
        left, top = 20 + place % 2 * wide, 56 + place // 2 * tall
        parts.append(f'<text x="{left}" y="{top}" class="panel">{escape(name)}</text>')
        across, lines = _scale([value for value in values.values() if value > 0], left + 150, left + wide - 80)
        bottom = top + 12 + row * len(values)
        for line in lines:
            x = across(line)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + 10}" y2="{bottom}" class="grid"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" class="faint middle">{number(line)}</text>')
        for index, (target, value) in enumerate(values.items()):
            # Nothing has no place on a logarithmic axis: it is drawn at its foot, and says 0.
            x, y, colour = across(value) if value > 0 else left + 150, top + 24 + row * index, COLOURS[target]
            parts.append(f'<text x="{left + 140}" y="{y + 4}" class="end">{escape(labels[target])}</text>')
            parts.append(f'<line x1="{left + 150}" x2="{x:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="6" fill="{colour}"/>')
            parts.append(f'<text x="{x + 11:.1f}" y="{y + 4}" class="value">{number(value)}</text>')
    return _document(2 * wide + 20, 50 + tall * math.ceil(len(panels) / 2), title, parts)


Curves = "Mapping[str, Sequence[tuple[float, float]]]"


def lines(title: str, across: str, panels: Sequence[tuple[str, Curves]], labels: Mapping[str, str]) -> str:
    """Panels two and two; in each a curve for every target over a number of streams; both axes are logarithmic."""
    wide, tall = 440, 270
    parts: list[str] = []
    drawn: dict[str, None] = {}
    for place, (name, curves) in enumerate(panels):
        left, top = 20 + place % 2 * wide, 56 + place // 2 * tall
        points = [point for curve in curves.values() for point in curve if point[1] > 0]
        parts.append(f'<text x="{left}" y="{top}" class="panel">{escape(name)}</text>')
        if not points:
            continue
        marks = sorted({x for x, _ in points})
        low, high = math.log(marks[0]), math.log(marks[-1])
        x_of = {mark: left + 70 + (math.log(mark) - low) / ((high - low) or 1) * (wide - 130) for mark in marks}
        y_of, grid = _scale([y for _, y in points], top + tall - 70, top + 16)
        for line in grid:
            y = y_of(line)
            parts.append(f'<line x1="{left + 55}" x2="{left + wide - 45}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            parts.append(f'<text x="{left + 48}" y="{y + 4:.1f}" class="faint end">{number(line)}</text>')
        for mark, x in x_of.items():
            parts.append(f'<text x="{x:.1f}" y="{top + tall - 50}" class="faint middle">{number(mark)}</text>')
        parts.append(
            f'<text x="{left + wide / 2 + 5}" y="{top + tall - 34}" class="faint middle">{escape(across)}</text>'
        )
        for target, curve in curves.items():
            drawn[target] = None
            places = [(x_of[x], y_of(y)) for x, y in curve if y > 0]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[target]}" stroke-width="2.5"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[target]}"/>' for x, y in places]
    height, x = 56 + tall * math.ceil(len(panels) / 2), 20
    for target in drawn:
        parts.append(f'<circle cx="{x + 6}" cy="{height - 8}" r="5" fill="{COLOURS[target]}"/>')
        parts.append(f'<text x="{x + 16}" y="{height - 4}">{escape(labels[target])}</text>')
        x += 40 + 7 * len(labels[target])
    return _document(2 * wide + 20, height + 16, title, parts)
