"""Charts as geometry: rectangles, lines and labels. Pure.

A chart is drawn once for each width in ``SIZES``, and the page shows the drawing that fits the screen.
``templates/chart.html`` writes a drawing as SVG and escapes every text. A rectangle has the number of
its series, and the page's stylesheet has the color of each number for light and for dark screens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# The series of everything beyond the largest ones; it has a neutral color.
OTHERS = 7
GAP = 8
LINE_HEIGHT = 15
# From the middle of a label to its baseline.
HALF_LETTER = 4


class Rect(NamedTuple):
    """A rectangle in pixels, in the color of a series."""

    x: float
    y: float
    width: float
    height: float
    series: int = 0
    radius: float = 0.0


class Line(NamedTuple):
    """A line between two points, in pixels.

    ``look`` is a class of the stylesheet: ``target``, ``leader``, or that of a series; empty for the grid.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    look: str = ""


class Text(NamedTuple):
    """A label with its baseline at ``y``; ``anchor`` (start, middle or end) is the part of it at ``x``."""

    x: float
    y: float
    text: str
    anchor: str = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A bar or a point: its parts, its labels, and the area that shows ``hover`` under the pointer."""

    hover: str
    area: Rect
    parts: tuple[Rect, ...]
    texts: tuple[Text, ...] = ()
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A chart at one width. ``summary`` describes it to readers who cannot see it.

    ``texts`` are those of the axes. ``labels`` are above the marks.
    """

    width: float
    height: float
    summary: str
    grid: tuple[Line, ...]
    texts: tuple[Text, ...]
    marks: tuple[Mark, ...]
    labels: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart in each size. ``legend`` has the name of each series by its number; empty without series."""

    title: str
    drawings: Mapping[str, Drawing]
    legend: Mapping[int, str] = field(default_factory=dict[int, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The width of a drawing, and the part of it that names of bars may take, in pixels."""

    width: float
    names: float


SIZES: Mapping[str, Size] = {
    "wide": Size(width=976, names=300),
    "medium": Size(width=620, names=200),
    "narrow": Size(width=340, names=140),
}
