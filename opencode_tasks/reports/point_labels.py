"""Places for the labels of points, so that no label covers another one or a point. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from opencode_tasks.reports.drawing import GAP, HALF_LETTER, LINE_HEIGHT, Line, Rect, Text
from opencode_tasks.reports.scales import text_width

# How many lines above or below a point its label may be; a label that is not beside it has a line to it.
MAX_SHIFT = 7
LEADER_FROM = 2
# Of a text with its ascenders and descenders.
LETTER_HEIGHT = 13


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPoint:
    """A point that needs a label: its place, its radius, and the ends of the vertical line through it.

    ``texts`` are the labels in the order of preference; a later one is used if there is no room.
    """

    x: float
    y: float
    radius: float
    top: float
    bottom: float
    texts: Sequence[str]

    @property
    def box(self) -> Rect:
        """The area of the point."""
        return Rect(self.x - self.radius, self.y - self.radius, 2 * self.radius, 2 * self.radius)

    @property
    def line(self) -> Rect:
        """The area of the vertical line."""
        return Rect(self.x - 2, self.top - 2, 4, self.bottom - self.top + 4)


class PlacedLabel(NamedTuple):
    """The label of a point, and the line from it to the point; None if it is beside it."""

    text: Text
    leader: Line | None


class _Place(NamedTuple):
    text: Text
    box: Rect
    leader: Line | None


def place_labels(
    points: Sequence[LabelledPoint], *, frame: Rect, taken: Sequence[Rect], lines: Sequence[Rect] = ()
) -> list[PlacedLabel | None]:
    """A label for each point, within ``frame``; earlier points are placed first.

    No label covers a point, one of the boxes ``taken`` or another label; None for a point without room.
    A label covers one of ``lines`` or the line of a point only if there is no other place.
    """
    covered = [*taken, *(point.box for point in points)]
    lines = [*lines, *(point.line for point in points)]
    found: list[PlacedLabel | None] = []
    for point in points:
        place = _free_place(point, frame, covered, lines)
        if place is not None:
            covered.append(place.box)
        found.append(None if place is None else PlacedLabel(place.text, place.leader))
    return found


def _free_place(
    point: LabelledPoint, frame: Rect, covered: Sequence[Rect], lines: Sequence[Rect]
) -> _Place | None:
    """The best place without another label or point; None if there is none.

    A short text beside the point is better than a long one on a line, and that is better than one far away.
    """
    free = [
        place
        for text in point.texts
        for place in _places(point, text, prefers_left=point.x > frame.x + frame.width / 2)
        if _is_inside(place.box, frame) and is_free(place.box, covered)
    ]

    def rank(place: _Place) -> tuple[bool, float]:
        # Of places without a line, the first one has the longest text.
        return place.leader is not None, 0.0 if is_free(place.box, lines) else place.box.width

    return min(free, key=rank, default=None)


def _places(point: LabelledPoint, text: str, *, prefers_left: bool) -> Iterator[_Place]:
    """Places beside the point, then above and below it, then further and further away."""
    width, beside = text_width(text), point.radius + GAP / 2
    sides = (("end", -1), ("start", 1)) if prefers_left else (("start", 1), ("end", -1))
    for shift in sorted(range(-MAX_SHIFT, MAX_SHIFT + 1), key=lambda lines: (abs(lines), lines)):
        y, is_far = point.y + shift * LINE_HEIGHT, abs(shift) >= LEADER_FROM
        away = beside + (2 * GAP if is_far else 0)
        for anchor, side in sides:
            x = point.x + side * away
            leader = Line(point.x, point.y, x - side * 2, y, "leader") if is_far else None
            box = _box(x if side > 0 else x - width, y, width)
            yield _Place(Text(x, y + HALF_LETTER, text, anchor), box, leader)
        if not shift:
            for middle in (point.y - beside - LINE_HEIGHT / 2, point.y + beside + LINE_HEIGHT / 2):
                box = _box(point.x - width / 2, middle, width)
                yield _Place(Text(point.x, middle + HALF_LETTER, text, "middle"), box, None)


def _box(x: float, middle: float, width: float) -> Rect:
    return Rect(x, middle - LETTER_HEIGHT / 2, width, LETTER_HEIGHT)


def is_free(box: Rect, others: Sequence[Rect]) -> bool:
    """Whether a box overlaps none of the others."""
    return not any(_overlap(box, other) for other in others)


def _is_inside(box: Rect, frame: Rect) -> bool:
    return (
        frame.x <= box.x
        and box.x + box.width <= frame.x + frame.width
        and frame.y <= box.y
        and box.y + box.height <= frame.y + frame.height
    )


def _overlap(one: Rect, other: Rect) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )
