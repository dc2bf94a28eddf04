"""Axis of costs: linear, or logarithmic if the costs differ much, with places for zero and unknown. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from opencode_tasks.reports.drawing import GAP
from opencode_tasks.reports.scales import log_ticks, text_width, ticks_within, usd_tick

# The largest cost by the smallest one from which the axis is logarithmic.
LOG_FROM = 20
# Room between the ends of the axis and the points, in pixels, and width of the places beside it.
PADDING = 34.0
ZERO_WIDTH = 56.0
UNKNOWN_WIDTH = 84.0
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostAxis:
    """An axis from ``start`` to ``stop`` in pixels, for costs in pico-dollars.

    A cost of None is at ``unknown_x``. On a logarithmic axis, 0 is at ``zero_x``. Both are beside the axis.
    ``borders`` are the places of lines between the parts, ``ticks`` the costs with a label.
    """

    start: float
    stop: float
    low: float
    high: float
    is_log: bool
    zero_x: float
    unknown_x: float
    borders: tuple[float, ...]
    ticks: tuple[int, ...]
    has_zero: bool
    has_unknown: bool

    @classmethod
    def of(cls, costs: Sequence[int | None], left: float, right: float) -> CostAxis:
        """The axis between two places that shows these costs."""
        known = [cost for cost in costs if cost is not None]
        positive = [cost for cost in known if cost > 0]
        is_log = bool(positive) and max(positive) >= LOG_FROM * min(positive)
        has_unknown, has_zero = len(known) < len(costs), is_log and len(positive) < len(known)
        begin = left + (ZERO_WIDTH if has_zero else 0.0)
        # Without a known cost, the place of the unknown ones is all there is.
        end = right - (UNKNOWN_WIDTH if has_unknown and known else 0.0)
        start, stop = begin + PADDING, end - PADDING
        low, high = (min(positive), max(positive)) if is_log else (0, max(positive, default=0))
        return cls(
            start=start,
            stop=stop,
            low=low,
            high=high,
            is_log=is_log,
            zero_x=left + ZERO_WIDTH / 2 if is_log else start,
            unknown_x=right - UNKNOWN_WIDTH / 2 if known else (left + right) / 2,
            borders=tuple(sorted({left, begin, end, right})),
            ticks=_log_ticks(low, high, stop - start) if is_log else _linear_ticks(known, high, stop - start),
            has_zero=has_zero,
            has_unknown=has_unknown,
        )

    def x(self, cost_pico: int | None) -> float:
        """The place of a cost."""
        if cost_pico is None:
            return self.unknown_x
        if not self.high:
            return self.start
        if not self.is_log:
            return self.start + cost_pico / self.high * (self.stop - self.start)
        if not cost_pico:
            return self.zero_x
        return self.start + math.log(cost_pico / self.low) / math.log(self.high / self.low) * (
            self.stop - self.start
        )

    @property
    def labels(self) -> list[tuple[float, str]]:
        """The labels and the places of their middles; one without room is left out."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1
        beside = [(self.zero_x, "$0")] if self.has_zero else []
        beside += [(self.unknown_x, UNKNOWN)] if self.has_unknown else []
        found = list(beside)
        for tick in self.ticks:
            x, text = self.x(tick), usd_tick(tick, tick if self.is_log else step)
            half = text_width(text) / 2
            is_clear = all(abs(x - other) >= half + text_width(name) / 2 + 2 for other, name in found)
            if is_clear and self.borders[0] <= x - half and x + half <= self.borders[-1]:
                found.append((x, text))
        return sorted(found)

    @property
    def title(self) -> str:
        """Title of the axis."""
        return f"cost per row{' (logarithmic)' if self.is_log else ''}"


def _linear_ticks(known: Sequence[int], high: int, width: float) -> tuple[int, ...]:
    if not known:
        return ()
    return tuple(ticks_within(high, width, usd_tick)) if high else (0,)


def _log_ticks(low: int, high: int, width: float) -> tuple[int, ...]:
    """The ticks of the longest list whose labels do not overlap; the ends of the axis have no other."""
    scale = width / math.log(high / low)
    for ticks in log_ticks(low, high):
        places = [math.log(tick / low) * scale for tick in ticks]
        half = [(text_width(usd_tick(tick, tick)) + GAP) / 2 for tick in ticks]
        if all(places[at] + half[at] <= places[at + 1] - half[at + 1] for at in range(len(ticks) - 1)):
            return tuple(ticks)
    return ()
