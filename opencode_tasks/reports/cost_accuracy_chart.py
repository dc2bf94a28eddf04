"""Chart of cost against accuracy: a point for each model, with the interval of its accuracy. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from opencode_tasks.domain.money import format_usd
from opencode_tasks.reports.accuracy_chart import accuracy_text
from opencode_tasks.reports.cost_axis import CostAxis
from opencode_tasks.reports.drawing import (
    GAP,
    HALF_LETTER,
    LINE_HEIGHT,
    OTHERS,
    SIZES,
    Chart,
    Drawing,
    Line,
    Mark,
    Rect,
    Size,
    Text,
)
from opencode_tasks.reports.point_labels import LabelledPoint, PlacedLabel, is_free, place_labels
from opencode_tasks.reports.scales import fit_text, share_text, share_ticks, text_width

State = Literal["chosen", "measured", "dropped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How the points of a state look: the number of their color, their radius, and the roundness of it."""

    meaning: str
    series: int
    radius: float
    is_round: bool = True


# Those first are drawn above the others and get their labels first.
LOOKS: dict[State, Look] = {
    "chosen": Look(meaning="chosen", series=2, radius=8),
    "measured": Look(meaning="measured to the end", series=0, radius=5.5),
    "dropped": Look(meaning="dropped (square)", series=OTHERS, radius=4.5, is_round=False),
}
PLOT_HEIGHT = 320
TICK_PITCH = 35
CAP = 4
# The axis of the accuracy begins at a tenth that is at least this far below the lowest value.
BELOW = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model: its number in the table, its accuracy from 0 to 1, and its cost per row, None if unknown."""

    number: int
    name: str
    share: float
    low: float
    high: float
    cost_pico: int | None
    state: State

    @property
    def look(self) -> Look:
        """How it is drawn."""
        return LOOKS[self.state]

    def texts(self, longest: float) -> list[str]:
        """Labels that have the number of the point, in the order of preference: the last one is the number.

        A name that is wider than ``longest`` is shown without its provider, and cut.
        """
        whole, model = f"{self.number} {self.name}", f"{self.number} {self.name.rpartition('/')[2]}"
        texts = [whole, fit_text(model, longest)]
        if self.state == "chosen":
            texts = [f"{text} (chosen)" for text in texts] + texts
        return [*(text for text in texts if text_width(text) <= longest), str(self.number)]

    @property
    def hover(self) -> str:
        """Name, accuracy, cost and state."""
        accuracy = accuracy_text(self.share, self.low, self.high)
        return f"{self.name}: {accuracy}\n{format_usd(self.cost_pico)} per row\n{self.look.meaning}"


def cost_and_accuracy(points: Sequence[Point], *, target: float, title: str) -> Chart:
    """A point for each model, at least one, and a line at the target, a share from 0 to 1."""
    states = {point.state for point in points}
    ordered = sorted(points, key=lambda point: list(LOOKS).index(point.state))
    return Chart(
        title=title,
        legend={look.series: look.meaning for state, look in LOOKS.items() if state in states},
        drawings={name: _drawing(ordered, target, size) for name, size in SIZES.items()},
    )


def _drawing(points: Sequence[Point], target: float, size: Size) -> Drawing:
    lowest = min(target, *(point.low for point in points)) - BELOW
    first = min(0.9, max(0.0, math.floor(lowest * 10) / 10))
    ticks = share_ticks(first, PLOT_HEIGHT, TICK_PITCH)
    left, top = max(text_width(share_text(tick)) for tick in ticks) + GAP, LINE_HEIGHT + 2 * GAP
    bottom = top + PLOT_HEIGHT
    axis = CostAxis.of([point.cost_pico for point in points], left, size.width)

    def y(share: float) -> float:
        return bottom - (share - first) / (1 - first) * PLOT_HEIGHT

    drawn = [_labelled(point, axis, y, size) for point in points]
    goal = _goal(f"target {share_text(target)}", left, size.width, top, y(target), drawn)
    labels = place_labels(
        drawn,
        frame=Rect(left + 2, top - GAP, size.width - left - 2, PLOT_HEIGHT + GAP),
        taken=[_box_of(goal)],
        lines=[Rect(left, y(target) - 1, size.width - left, 2)],
    )
    return Drawing(
        width=size.width,
        height=bottom + GAP + 2 * LINE_HEIGHT,
        summary=_summary(points, target),
        grid=(
            *(Line(left, y(tick), size.width, y(tick)) for tick in ticks),
            *(Line(x, top, x, bottom) for x in axis.borders),
            Line(left, y(target), size.width, y(target), "target"),
        ),
        texts=(
            Text(0, LINE_HEIGHT - HALF_LETTER, "correct labels"),
            *(Text(left - GAP, y(tick) + HALF_LETTER, share_text(tick), "end") for tick in ticks),
            *(Text(x, bottom + GAP + LINE_HEIGHT - HALF_LETTER, text, "middle") for x, text in axis.labels),
            Text(size.width, bottom + GAP + 2 * LINE_HEIGHT - HALF_LETTER, axis.title, "end"),
        ),
        # The last one is drawn above the others.
        marks=tuple(
            _mark(point, axis.x(point.cost_pico), y, label)
            for point, label in reversed([*zip(points, labels, strict=True)])
        ),
        labels=(
            goal,
            *(label.text for label in labels if label is not None),
        ),
    )


def _labelled(point: Point, axis: CostAxis, y: Callable[[float], float], size: Size) -> LabelledPoint:
    return LabelledPoint(
        x=axis.x(point.cost_pico),
        y=y(point.share),
        radius=point.look.radius,
        top=y(point.high),
        bottom=y(point.low),
        texts=point.texts(size.names),
    )


def _goal(
    text: str, left: float, right: float, top: float, y: float, points: Sequence[LabelledPoint]
) -> Text:
    """The label of the target: above its line, at the first of some places where no point is."""
    above, below = y - HALF_LETTER, y + LINE_HEIGHT
    # A target of 100 % has no room above its line.
    heights = (above, below) if above - LINE_HEIGHT > top else (below,)
    covered = [area for point in points for area in (point.box, point.line)]
    shares = (1.0, 0.0, 0.75, 0.5, 0.25)
    first, last = left + GAP + text_width(text), right - GAP
    places = [Text(first + share * (last - first), at, text, "end") for share in shares for at in heights]
    return next((place for place in places if is_free(_box_of(place), covered)), places[0])


def _box_of(label: Text) -> Rect:
    """The area of a text that ends at its place."""
    return Rect(label.x - text_width(label.text), label.y - LINE_HEIGHT, text_width(label.text), LINE_HEIGHT)


def _mark(point: Point, x: float, y: Callable[[float], float], label: PlacedLabel | None) -> Mark:
    look, high, low, middle = point.look, y(point.high), y(point.low), y(point.share)
    color, width = f"s{look.series}", 2 * look.radius
    leader = () if label is None or label.leader is None else (label.leader,)
    return Mark(
        hover=point.hover,
        area=Rect(x - look.radius - 2, high, width + 4, low - high),
        parts=(
            Rect(
                x - look.radius,
                middle - look.radius,
                width,
                width,
                look.series,
                look.radius if look.is_round else 0,
            ),
        ),
        lines=(
            *leader,
            Line(x, high, x, low, color),
            Line(x - CAP, high, x + CAP, high, color),
            Line(x - CAP, low, x + CAP, low, color),
        ),
    )


def _summary(points: Sequence[Point], target: float) -> str:
    chosen = next((point for point in points if point.state == "chosen"), None)
    found = "no model is chosen" if chosen is None else f"the chosen one is {chosen.hover}"
    return f"Models: {len(points)}, target: {share_text(target)}; {found}.".replace("\n", ", ")
