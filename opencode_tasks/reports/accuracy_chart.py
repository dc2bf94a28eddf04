"""Chart of accuracies with their intervals, one line for each model or run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opencode_tasks.reports.drawing import (
    GAP,
    HALF_LETTER,
    LINE_HEIGHT,
    SIZES,
    Chart,
    Drawing,
    Line,
    Mark,
    Rect,
    Size,
    Text,
)
from opencode_tasks.reports.scales import fit_text, share_text, share_ticks, text_width

PITCH = 26
TICK_PITCH = 55
RADIUS = 5
CAP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of correct answers of ``n`` rows, from 0 to 1, and its interval; None if that is not known."""

    name: str
    n: int
    share: float
    low: float | None
    high: float | None

    @property
    def hover(self) -> str:
        """Name and figures."""
        return f"{self.name}: {accuracy_text(self.share, self.low, self.high)} of {self.n:,} rows"


def accuracy_text(share: float, low: float | None, high: float | None) -> str:
    """An accuracy with its interval, if that is known."""
    return f"{share:.1%}" + ("" if low is None or high is None else f" ({low:.1%} to {high:.1%})")


def accuracy_by_name(accuracies: Sequence[Accuracy], *, title: str) -> Chart:
    """A point with its interval for each of these accuracies, in their order; at least one."""
    return Chart(title=title, drawings={name: _points(accuracies, size) for name, size in SIZES.items()})


def _points(accuracies: Sequence[Accuracy], size: Size) -> Drawing:
    left = min(size.names, max(text_width(one.name) for one in accuracies)) + 2 * GAP
    values = [f"{one.share:.1%} of {one.n:,}" for one in accuracies]
    right = size.width - max(map(text_width, values)) - 2 * GAP
    bottom = PITCH * len(accuracies)
    best = max(accuracies, key=lambda one: one.share)

    def x(share: float) -> float:
        return left + share * (right - left)

    ticks = [(x(tick), share_text(tick)) for tick in share_ticks(0.0, right - left, TICK_PITCH)]
    return Drawing(
        width=size.width,
        height=bottom + GAP + LINE_HEIGHT,
        summary=f"Accuracies: {len(accuracies)}; the highest is {best.hover}.",
        grid=tuple(Line(place, 0, place, bottom) for place, _ in ticks),
        texts=tuple(
            Text(place, bottom + GAP + LINE_HEIGHT - HALF_LETTER, text, "middle") for place, text in ticks
        ),
        marks=tuple(
            Mark(
                hover=one.hover,
                area=Rect(0, PITCH * at, size.width, PITCH),
                parts=(Rect(x(one.share) - RADIUS, middle - RADIUS, 2 * RADIUS, 2 * RADIUS, radius=RADIUS),),
                texts=(
                    Text(left - 2 * GAP, middle + HALF_LETTER, fit_text(one.name, left - 2 * GAP), "end"),
                    Text(size.width, middle + HALF_LETTER, value, "end"),
                ),
                lines=_whisker(one, x, middle),
            )
            for at, (one, value) in enumerate(zip(accuracies, values, strict=True))
            for middle in (PITCH * (at + 0.5),)
        ),
    )


def _whisker(one: Accuracy, x: Callable[[float], float], middle: float) -> tuple[Line, ...]:
    if one.low is None or one.high is None:
        return ()
    low, high = x(one.low), x(one.high)
    return (
        Line(low, middle, high, middle, "s0"),
        Line(low, middle - CAP, low, middle + CAP, "s0"),
        Line(high, middle - CAP, high, middle + CAP, "s0"),
    )
