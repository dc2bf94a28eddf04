"""Line plots as SVG. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from opencode_tasks.reports.scales import compact_count, ticks_covering

WIDTH, PANEL_HEIGHT = 820, 220
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 30
MAX_STEPS = 6
COLORS = ("#3b6fb6", "#d9792b", "#3f9163", "#b0517a")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Lines with a common axis: the values of each line by its name, none below 0."""

    title: str
    lines: Mapping[str, Sequence[float]]


def svg_plot(x_title: str, x: Sequence[float], panels: Sequence[Panel]) -> str:
    """Return panels below each other as SVG; ``x`` has the common positions of all values, from 0 on."""
    height = (TOP + PANEL_HEIGHT + BOTTOM) * len(panels) + BOTTOM
    font = 'font-family="Liberation Sans, Helvetica, Arial, sans-serif" font-size="12" fill="#5b6875"'
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate(0 {(TOP + PANEL_HEIGHT + BOTTOM) * number + TOP})">')
        parts += _panel(x, panel)
        parts.append("</g>")
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 12, x_title, "middle"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(x: Sequence[float], panel: Panel) -> Iterator[str]:
    x_ticks = ticks_covering(int(max(1, *x)), MAX_STEPS)
    y_ticks = ticks_covering(int(max(1, *(max(values) for values in panel.lines.values()))), MAX_STEPS)
    x_scale = (WIDTH - LEFT - RIGHT) / x_ticks[-1]
    y_scale = PANEL_HEIGHT / y_ticks[-1]
    for tick in y_ticks:
        y = PANEL_HEIGHT - tick * y_scale
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dfe4e9"/>'
        yield _text(LEFT - 8, y + 4, compact_count(tick), "end")
    for tick in x_ticks:
        yield _text(LEFT + tick * x_scale, PANEL_HEIGHT + 18, compact_count(tick), "middle")
    yield _text(LEFT, -22, panel.title, "start")
    for number, (name, values) in enumerate(panel.lines.items()):
        points = " ".join(
            f"{LEFT + at * x_scale:.1f},{PANEL_HEIGHT - value * y_scale:.1f}"
            for at, value in zip(x, values, strict=True)
        )
        color = COLORS[number]
        yield f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
        yield f'<rect x="{LEFT + 220 + 160 * number}" y="-32" width="12" height="12" fill="{color}"/>'
        yield _text(LEFT + 238 + 160 * number, -22, name, "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
