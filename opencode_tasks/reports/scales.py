"""Axes and labels of charts: round ticks, periods of time, and texts cut to a width. Pure.

Widths are in pixels at ``FONT_SIZE``. The reader's font is unknown, so the width of a text is an
estimate that is too large for most fonts rather than too small.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

FONT_SIZE = 12
# Below this width, a column of a chart is replaced by one of a longer period.
MIN_PITCH = 4.0
PICO_EXPONENT = 12
# In percent.
SHARE_STEPS = (2, 5, 10, 20, 50)
_MIN_DIGITS = 2
_NARROW = frozenset(" .,:;!|/\\'`ijlftr()[]{}-I1")
_WIDE = frozenset("mwMW@%…—&")
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))


def text_width(text: str) -> float:
    """Return the estimated width of a text in pixels."""
    return FONT_SIZE * sum(map(_em, text))


def _em(character: str) -> float:
    if character in _NARROW:
        return 0.45
    if character in _WIDE or unicodedata.east_asian_width(character) in "FW":
        return 1.05
    if character.isascii():
        return 0.78 if character.isupper() else 0.66
    return 1.05


def fit_text(text: str, width: float) -> str:
    """Return the text, or its beginning, an ellipsis and its end if it is wider than ``width``.

    The end is longer, because names of models and deployments differ in their last part.
    """
    if text_width(text) <= width:
        return text
    room = width - text_width("…")
    begin = _prefix(text, room / 3)
    end = _prefix(text[::-1], room - text_width(begin))[::-1]
    return f"{begin}…{end}"


def _prefix(text: str, width: float) -> str:
    used = 0.0
    for index, character in enumerate(text):
        used += FONT_SIZE * _em(character)
        if used > width:
            return text[:index]
    return text


def ticks_covering(largest: int, steps: int) -> range:
    """Return round ticks from 0 to the first one that is not below ``largest`` (above 0).

    There are ``steps`` steps at most.
    """
    step = _round_step(largest / steps)
    return range(0, largest + step, step)


def ticks_within(largest: int, width: float, label: Callable[[int, int], str]) -> range:
    """Return round ticks from 0 to at most ``largest`` (above 0).

    The step is the smallest one for which the labels do not overlap; if there is none, 0 is the only
    tick. ``width`` is the length of the axis in pixels from 0 to ``largest``. ``label`` returns the label
    of a tick; its second argument is the step.
    """
    steps = {_round_step(largest / count) for count in range(1, max(1, int(width // 60)) + 1)}
    for step in sorted(steps):
        ticks = range(0, largest + 1, step)
        room = width * step / largest - FONT_SIZE
        if max(text_width(label(tick, step)) for tick in ticks) <= room:
            return ticks
    return range(1)


def _round_step(minimum: float) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50, 100, … that is not below ``minimum``."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= minimum:
                return factor * power
        power *= 10


def usd_tick(pico: int, step: int) -> str:
    """Return the amount of a tick in dollars, with the decimals that the step of the axis needs."""
    if not pico:
        return "$0"
    zeros = len(str(step)) - len(str(step).rstrip("0"))
    digits = max(0, PICO_EXPONENT - zeros)
    return f"${pico / 10**PICO_EXPONENT:,.{max(digits, _MIN_DIGITS) if digits else 0}f}"


def compact_count(value: int) -> str:
    """Return a count with three significant digits and a unit: 950, 1.2k, 34.5M, 2B."""
    for size, unit in _UNITS:
        # 999,950 rounds to a million, not to 1000k.
        if value >= size * 0.9995:
            return f"{float(f'{value / size:.3g}'):g}{unit}"
    return str(value)


def count_tick(value: int, _step: int) -> str:
    """Return the label of a tick; it does not depend on the step of the axis."""
    return compact_count(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A unit of a time axis. ``steps`` are the numbers of periods that may lie between two labels."""

    name: str
    start: Callable[[date], date]
    following: Callable[[date], date]
    label: str
    steps: tuple[int, ...]

    def span(self, start: date) -> str:
        """Return the first and the last day of a period as text, and one day for a day."""
        last = self.following(start) - timedelta(days=1)
        return start.isoformat() if last == start else f"{start} to {last}"

    def starts(self, first: date, last: date) -> list[date]:
        """Return the start of each period from the one of ``first`` to the one of ``last``."""
        found = [self.start(first)]
        while (following := self.following(found[-1])) <= last:
            found.append(following)
        return found


PERIODS = (
    Period(
        name="day",
        start=lambda day: day,
        following=lambda start: start + timedelta(days=1),
        label="%d %b",
        steps=(1, 2, 7, 14, 28, 56),
    ),
    Period(
        name="week",
        start=lambda day: day - timedelta(days=day.weekday()),
        following=lambda start: start + timedelta(days=7),
        label="%d %b",
        steps=(1, 2, 4, 8, 13, 26, 52),
    ),
    Period(
        name="month",
        start=lambda day: day.replace(day=1),
        following=lambda start: (start + timedelta(days=31)).replace(day=1),
        label="%b",
        steps=(1, 3, 6, 12, 24, 60),
    ),
    Period(
        name="year",
        start=lambda day: day.replace(month=1, day=1),
        following=lambda start: start.replace(year=start.year + 1),
        label="%Y",
        steps=(1, 2, 5, 10, 20, 50),
    ),
)


def period_for(first: date, last: date, width: float) -> Period:
    """Return the shortest period whose columns are wide enough; the longest one if none is."""
    for period in PERIODS[:-1]:
        if len(period.starts(first, last)) * MIN_PITCH <= width:
            return period
    return PERIODS[-1]


def share_ticks(first: float, width: float, pitch: float) -> list[float]:
    """Return round ticks from ``first``, a number of tenths, to 1.

    ``width`` is the length of the axis, ``pitch`` the smallest distance of two ticks, both in pixels.
    """
    most = max(1, int(width // pitch))
    step = next((step for step in SHARE_STEPS if (100 - round(first * 100)) / step <= most), SHARE_STEPS[-1])
    return [tick / 100 for tick in range(round(first * 100), 101, step)]


def share_text(share: float) -> str:
    """Return a share in percent with as many decimals as it needs, at most two: 90%, 97.5%."""
    return f"{round(share * 100, 2):g}%"


def log_ticks(low: float, high: float) -> Iterator[list[int]]:
    """Yield lists of round amounts from ``low`` to ``high``, both above 0, the longest list first.

    The first list has 1, 2 and 5 times each power of ten, the others have fewer and fewer of the powers.
    """
    powers = [
        10**power for power in range(max(0, math.floor(math.log10(low))), math.ceil(math.log10(high)) + 1)
    ]
    yield [factor * power for power in powers for factor in (1, 2, 5) if low <= factor * power <= high]
    for every in range(1, len(powers) + 1):
        yield [power for power in powers[::every] if low <= power <= high]
