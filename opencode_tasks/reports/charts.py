"""Bar charts of the report page: cost over time, cost by name, and tokens. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from opencode_tasks.domain.money import format_usd
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
from opencode_tasks.reports.scales import (
    Period,
    compact_count,
    count_tick,
    fit_text,
    period_for,
    text_width,
    ticks_covering,
    ticks_within,
    usd_tick,
)

MAX_BARS = 12
TOKEN_KINDS = ("input", "cache read", "cache write", "output", "reasoning")

PLOT_HEIGHT = 240
BAR_PITCH = 26
BAR_THICKNESS = 18
MAX_COLUMN_WIDTH = 56
MAX_STEPS = 6
# A value above zero is visible, however small it is compared with the others.
MIN_LENGTH = 1.5


class Bar(NamedTuple):
    """A bar's name and its values by series; no value is below zero."""

    name: str
    values: Mapping[int, int]

    @property
    def total(self) -> int:
        """The sum of the values."""
        return sum(self.values.values())

    def hover(self, legend: Mapping[int, str], unit: Callable[[int], str]) -> str:
        """The name and the total, then a line for each series that has a value."""
        lines = [
            f"{name}: {unit(self.values[number])}" for number, name in legend.items() if self.values[number]
        ]
        return "\n".join([f"{self.name}: {unit(self.total)}", *lines])

    def lengths(self, scale: float) -> Iterator[tuple[int, float]]:
        """Each series with its length in pixels; a bar above zero is never shorter than ``MIN_LENGTH``."""
        factor = max(scale, MIN_LENGTH / self.total) if self.total else 0
        for number, value in self.values.items():
            if value:
                yield number, value * factor


def cost_over_time(lines: Sequence[Mapping[str, Any]]) -> Chart:
    """Columns of cost, stacked by model, from lines with ``day`` (a date), ``model`` and ``cost_pico``.

    A column is a day, or a week, month or year if the days are too many for the width. Raises
    ValueError if there is no line.
    """
    by_model: dict[str, int] = defaultdict(int)
    for line in lines:
        by_model[line["model"]] += line["cost_pico"]
    names = sorted(by_model, key=lambda model: (-by_model[model], model))
    series = {name: min(rank, OTHERS) for rank, name in enumerate(names)}
    legend = {number: "all others" if number == OTHERS else name for name, number in series.items()}
    by_day: dict[date, dict[int, int]] = defaultdict(lambda: dict.fromkeys(legend, 0))
    for line in lines:
        by_day[line["day"]][series[line["model"]]] += line["cost_pico"]
    return Chart(
        title="Cost over time by model",
        legend=legend,
        drawings={name: _columns(by_day, legend, size) for name, size in SIZES.items()},
    )


def cost_by_name(lines: Sequence[Mapping[str, Any]], *, title: str) -> Chart:
    """One bar for each line with ``name`` and ``cost_pico``, the most expensive first.

    The lines beyond ``MAX_BARS`` are one bar.
    """
    bars = _largest([Bar(line["name"], {0: line["cost_pico"]}) for line in lines], neutral=True)
    drawings = {key: _bars(bars, {}, size, format_usd, usd_tick) for key, size in SIZES.items()}
    return Chart(title=title, drawings=drawings)


def tokens_by_model(lines: Sequence[Mapping[str, Any]]) -> Chart:
    """One bar for each model, stacked by kind, from lines with ``name``, ``kind`` and ``tokens``.

    ``kind`` is one of ``TOKEN_KINDS``. The models beyond ``MAX_BARS`` are one bar.
    """
    legend = dict(enumerate(TOKEN_KINDS))
    by_name: dict[str, dict[int, int]] = defaultdict(lambda: dict.fromkeys(legend, 0))
    for line in lines:
        by_name[line["name"]][TOKEN_KINDS.index(line["kind"])] += line["tokens"]
    bars = _largest([Bar(name, values) for name, values in by_name.items()], neutral=False)
    return Chart(
        title="Tokens by model and kind",
        legend=legend,
        drawings={key: _bars(bars, legend, size, compact_count, count_tick) for key, size in SIZES.items()},
    )


def _largest(bars: Sequence[Bar], *, neutral: bool) -> list[Bar]:
    """Return the largest bars, and one for the sums of the others, in a neutral color if ``neutral``."""
    ranked = sorted(bars, key=lambda bar: (-bar.total, bar.name))
    shown, others = ranked[:MAX_BARS], ranked[MAX_BARS:]
    if not others:
        return shown
    sums: dict[int, int] = defaultdict(int)
    for bar in others:
        for number, value in bar.values.items():
            sums[OTHERS if neutral else number] += value
    return [*shown, Bar(f"{len(others)} others", sums)]


def _columns(by_day: Mapping[date, Mapping[int, int]], legend: Mapping[int, str], size: Size) -> Drawing:
    period, bars = _by_period(by_day, legend, size)
    largest = max(bars, key=lambda bar: bar.total)
    ticks = ticks_covering(largest.total, MAX_STEPS)
    labels = [usd_tick(tick, ticks.step) for tick in ticks]
    left, top = max(map(text_width, labels)) + GAP, LINE_HEIGHT + GAP
    bottom, pitch = top + PLOT_HEIGHT, (size.width - left) / len(bars)
    scale = PLOT_HEIGHT / ticks[-1]
    heights = [bottom - tick * scale for tick in ticks]
    total = format_usd(sum(bar.total for bar in bars))
    return Drawing(
        width=size.width,
        height=bottom + GAP + 2 * LINE_HEIGHT,
        summary=f"{total} in {_counted(len(bars), period.name)}; the most expensive is "
        f"{largest.name} with {format_usd(largest.total)}.",
        grid=tuple(Line(left, y, size.width, y) for y in heights),
        texts=(
            Text(0, LINE_HEIGHT - HALF_LETTER, f"USD per {period.name}"),
            *(
                Text(left - GAP, y + HALF_LETTER, label, "end")
                for y, label in zip(heights, labels, strict=True)
            ),
            *_time_labels(by_day, period, left, pitch, bottom + GAP),
        ),
        marks=tuple(
            Mark(
                hover=bar.hover(legend, format_usd),
                area=Rect(left + pitch * index, top, pitch, PLOT_HEIGHT),
                parts=tuple(_column(bar, left + pitch * (index + 0.5), pitch, bottom, scale)),
            )
            for index, bar in enumerate(bars)
        ),
    )


def _by_period(
    by_day: Mapping[date, Mapping[int, int]], legend: Mapping[int, str], size: Size
) -> tuple[Period, list[Bar]]:
    """The period that fits the width, and a bar for each, empty ones included."""
    first, last = min(by_day), max(by_day)
    period = period_for(first, last, size.width)
    sums = {start: dict.fromkeys(legend, 0) for start in period.starts(first, last)}
    for day, values in by_day.items():
        for number, value in values.items():
            sums[period.start(day)][number] += value
    return period, [Bar(period.span(start), values) for start, values in sums.items()]


def _column(bar: Bar, middle: float, pitch: float, bottom: float, scale: float) -> Iterator[Rect]:
    width = min(pitch * 0.84, MAX_COLUMN_WIDTH)
    y = bottom
    for number, length in bar.lengths(scale):
        y -= length
        yield Rect(middle - width / 2, y, width, length, number)


def _time_labels(
    by_day: Mapping[date, Any], period: Period, left: float, pitch: float, top: float
) -> Iterator[Text]:
    """Yield labels of columns at regular intervals, with the year below the first one of each year."""
    starts = period.starts(min(by_day), max(by_day))
    room = max(text_width(start.strftime(period.label)) for start in starts) + 2 * GAP
    step = next((step for step in period.steps if step * pitch >= room), period.steps[-1])
    year = None
    for index in range(0, len(starts), step):
        start, x = starts[index], left + pitch * (index + 0.5)
        if x + room / 2 > left + pitch * len(starts) + GAP and index:
            return
        yield Text(x, top + LINE_HEIGHT - HALF_LETTER, start.strftime(period.label), "middle")
        if start.year != year and period.name != "year":
            yield Text(x, top + 2 * LINE_HEIGHT - HALF_LETTER, str(start.year), "middle")
            year = start.year


def _bars(
    bars: Sequence[Bar],
    legend: Mapping[int, str],
    size: Size,
    unit: Callable[[int], str],
    tick_label: Callable[[int, int], str],
) -> Drawing:
    largest = max(bars, key=lambda bar: bar.total)
    left = min(size.names, max(text_width(bar.name) for bar in bars)) + GAP
    values = [unit(bar.total) for bar in bars]
    right = size.width - max(map(text_width, values)) - GAP
    scale = (right - left) / largest.total
    bottom = BAR_PITCH * len(bars)
    ticks = ticks_within(largest.total, right - left, tick_label)
    marks: list[Mark] = []
    for index, (bar, value) in enumerate(zip(bars, values, strict=True)):
        top = BAR_PITCH * index
        parts = tuple(_bar(bar, left, top + (BAR_PITCH - BAR_THICKNESS) / 2, scale))
        end = parts[-1].x + parts[-1].width if parts else left
        baseline = top + BAR_PITCH / 2 + HALF_LETTER
        texts = (
            Text(left - GAP, baseline, fit_text(bar.name, left - GAP), "end"),
            Text(end + GAP, baseline, value),
        )
        area = Rect(0, top, size.width, BAR_PITCH)
        marks.append(Mark(hover=bar.hover(legend, unit), area=area, parts=parts, texts=texts))
    return Drawing(
        width=size.width,
        height=bottom + GAP + LINE_HEIGHT,
        summary=f"{_counted(len(bars), 'bar')}; the largest is {largest.name} with {unit(largest.total)}.",
        grid=tuple(Line(x, 0, x, bottom) for x in (left + tick * scale for tick in ticks)),
        texts=tuple(
            Text(
                left + tick * scale,
                bottom + GAP + LINE_HEIGHT - HALF_LETTER,
                tick_label(tick, ticks.step),
                "middle",
            )
            for tick in ticks
        ),
        marks=tuple(marks),
    )


def _bar(bar: Bar, left: float, top: float, scale: float) -> Iterator[Rect]:
    x = left
    for number, length in bar.lengths(scale):
        yield Rect(x, top, length, BAR_THICKNESS, number)
        x += length


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
