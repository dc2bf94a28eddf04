"""Estimate of tokens, cost and time of rows that are not sent yet, from rows that have ended. Pure.

A quantity of a row, such as its output tokens, has an unknown distribution with a long tail. The total of
many rows is predicted in two ways: by a log-normal distribution whose parameters are uncertain, and by rows
drawn anew from those that ended, with a tail beyond the largest of them. The range covers both, so it errs on
the wide side: the total is in it in 8 to 9 of 10 cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

EstimateSource = Literal["ledger", "pilot", "text"]
DRAWS = 2000
MIN_ROWS = 5
"""Fewer rows that ended say too little about others."""
# Both ways are too sure of themselves about a long tail: further out, ranges hold what they promise.
_LOW, _HIGH = 0.06, 0.94
# Shape of the tail beyond the largest row that ended: its rows are 1.7 times as large on average.
_TAIL = 2.5
# Up to this number of rows of the tail, each one is drawn.
_DRAWN_ROWS = 64
# Share of rows whose use of something must be known.
_MIN_KNOWN = 0.8
# Variance of the logarithms, and standard deviation in multiples of the largest row: what lies beyond is no
# property of the rows, but of having seen few of them.
_MAX_VARIANCE, _MAX_SPREAD = 20.0, 4.0


RANGES = ("input_tokens", "output_tokens", "cost_usd", "seconds")
"""The ranges of an estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRow:
    """A row that ended. ``prompt_chars`` is the length of the texts that were sent; None is unknown."""

    prompt_chars: int
    input_tokens: int | None
    output_tokens: int | None
    cost_pico: int | None
    duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Expected value, and the 10th and the 90th percentile of what it may become.

    Attributes:
        low: The 10th percentile.
        expected: The mean; None if it is unknown.
        high: The 90th percentile.

    Examples:
        >>> from opencode_tasks import Range
        >>> Range(low=0.8, expected=1.0, high=1.4).high
        1.4
    """

    low: float
    expected: float | None
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Expected use of tokens, money and time by rows that are not sent yet. An unknown range is None.

    Attributes:
        rows: Number of rows that will be sent.
        source: ``ledger``: rows of earlier runs with the same model and options. ``pilot``: rows of this
            run. ``text``: the texts and the price of the model; the range goes from answers of one token
            to the longest answers.
        has_short_answers: Whether the longest valid answer is known from the schema, for ``text``. The
            ranges end at it then, and not at the longest answer that the model can give.
        may_reason: Whether the model can reason, for ``text`` with short answers. The number of reasoning
            tokens is unknown, and no range includes them.
        source_rows: Number of rows from which the ranges come; 0 for ``text``.
        input_tokens: Input tokens, cached ones included.
        output_tokens: Output tokens with reasoning.
        cost_usd: Cost in US dollars.
        seconds: Time from the first to the last answer.
        ceiling_usd: Cost in US dollars if each answer, reasoning included, had the maximum length of the
            model; None if the price is unknown, and without short answers.

    Examples:
        >>> from opencode_tasks import Estimate
        >>> Estimate(rows=10, source="text", source_rows=0).cost_usd is None
        True
    """

    rows: int
    source: EstimateSource
    source_rows: int
    input_tokens: Range | None = None
    output_tokens: Range | None = None
    cost_usd: Range | None = None
    seconds: Range | None = None
    ceiling_usd: float | None = None
    has_short_answers: bool = False
    may_reason: bool = False

    @property
    def is_known(self) -> bool:
        """Whether anything is known about the rows."""
        return not (self.input_tokens is None and self.output_tokens is None and self.seconds is None)


def spanned(fewest: Estimate | None, most: Estimate | None) -> Estimate | None:
    """The estimate of a number of rows between that of two others; None if nothing is known of either."""
    if fewest is None or most is None or fewest.rows == most.rows:
        return fewest or most
    ranges = {name: _span(getattr(fewest, name), getattr(most, name)) for name in RANGES}
    return replace(fewest, **ranges, ceiling_usd=most.ceiling_usd)


def added(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """The estimate of the rows of several models, which answer one after the other.

    The ends of the ranges are added, so that the range of the sum is on the wide side. None without one.
    """
    known = [one for one in estimates if one is not None]
    if not known:
        return None
    sources: list[EstimateSource] = [one.source for one in known]
    return Estimate(
        rows=sum(one.rows for one in known),
        source="text" if "text" in sources else sources[0],
        source_rows=0 if "text" in sources else sum(one.source_rows for one in known),
        has_short_answers=all(one.has_short_answers for one in known if one.source == "text")
        and "text" in sources,
        may_reason=any(one.may_reason for one in known),
        ceiling_usd=_added_ceiling(known),
        **{name: _added([getattr(one, name) for one in known]) for name in RANGES},
    )


def _added_ceiling(estimates: Sequence[Estimate]) -> float | None:
    """Cost of the longest answers; the upper end of the range for an estimate without one."""
    known = [one.ceiling_usd or (one.cost_usd and one.cost_usd.high) for one in estimates]
    is_complete = any(one.ceiling_usd for one in estimates) and None not in known
    return sum(cost for cost in known if cost is not None) if is_complete else None


def _added(ranges: Sequence[Range | None]) -> Range | None:
    known = [one for one in ranges if one is not None]
    if len(known) < len(ranges):
        return None
    expected = [one.expected for one in known if one.expected is not None]
    return Range(
        low=sum(one.low for one in known),
        expected=sum(expected) if len(expected) == len(known) else None,
        high=sum(one.high for one in known),
    )


def _span(fewest: Range | None, most: Range | None) -> Range | None:
    if fewest is None or most is None:
        return None
    known = [one.expected for one in (fewest, most) if one.expected is not None]
    return Range(low=fewest.low, expected=sum(known) / 2 if len(known) > 1 else None, high=most.high)


def covered_s(intervals: Sequence[tuple[float, float]]) -> float:
    """Seconds that are in at least one of these intervals of times in seconds."""
    total, end = 0.0, -math.inf
    for first, last in sorted(intervals):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def estimate_rows(
    prompt_chars: Sequence[int],
    ended: Sequence[EndedRow],
    *,
    source: EstimateSource,
    in_flight: tuple[float, float] | None,
    seed: int = 0,
) -> Estimate:
    """Estimate rows with prompts of these lengths from rows that ended.

    ``in_flight`` are the fewest and the most rows that will be in flight on average; None leaves the time
    unknown. Draws are made with ``seed``, so that the same rows give the same estimate.
    """
    rng: Any = np.random.default_rng(seed)
    rows = len(prompt_chars)
    input_tokens = _input(prompt_chars, ended)
    output = _known([row.output_tokens for row in ended])
    totals = None if output is None else _totals(output, rows, rng)
    cost = _cost(ended, rows, input_tokens, totals, rng)
    return Estimate(
        rows=rows,
        source=source,
        source_rows=len(ended),
        input_tokens=input_tokens,
        output_tokens=None if totals is None else totals.range(),
        cost_usd=cost,
        seconds=_seconds(ended, rows, in_flight, rng),
    )


@dataclass(frozen=True, slots=True)
class _Totals:
    """Expected total of many rows, and draws of what it may become, by each of the two ways."""

    expected: float
    draws: tuple[Any, ...]

    def times(self, factor: float, plus: float = 0.0) -> _Totals:
        return _Totals(self.expected * factor + plus, tuple(one * factor + plus for one in self.draws))

    def range(self) -> Range:
        low = min(float(np.quantile(one, _LOW)) for one in self.draws)
        high = max(float(np.quantile(one, _HIGH)) for one in self.draws)
        return Range(low=min(low, self.expected), expected=self.expected, high=max(high, self.expected))


def _known(values: Sequence[float | None]) -> Any:
    """The known values as an array; None if too few or too small a part of them are known."""
    known = [value for value in values if value is not None]
    if len(known) < MIN_ROWS or len(known) < _MIN_KNOWN * len(values):
        return None
    return np.asarray(known, dtype=float)


def _totals(values: Any, rows: int, rng: Any) -> _Totals:
    """Totals of ``rows`` further rows of which these are examples.

    A row may use nothing, for example if the provider refuses it: such rows are drawn apart from the others.
    """
    used = values[values > 0]
    expected = float(values.mean()) * rows
    if len(used) < MIN_ROWS:
        return _Totals(expected, (_resampled(values, np.full(DRAWS, rows), rng),))
    zeros = len(values) - len(used)
    share = rng.beta(len(used) + 1, zeros + 1, DRAWS) if zeros else 1.0
    counts = rng.binomial(rows, share, DRAWS)
    return _Totals(expected, (_resampled(used, counts, rng), _log_normal(used, counts, rng)))


def _resampled(values: Any, counts: Any, rng: Any) -> Any:
    """Totals of these numbers of rows, drawn from the values and a tail beyond the largest."""
    drawn = rng.choice(values, size=(DRAWS, len(values)))
    # A further row is the largest of all with this probability.
    larger: Any = rng.binomial(counts, 1 / (len(values) + 1))
    rest = counts - larger
    spread = drawn.std(axis=1, ddof=1) * np.sqrt(rest)
    tail = float(values.max()) * _tail_sums(larger, rng)
    return drawn.mean(axis=1) * rest + rng.standard_normal(DRAWS) * spread + tail


def _tail_sums(counts: Any, rng: Any) -> Any:
    """Sums of these numbers of values of the tail, as multiples of its start; many have a normal sum."""
    few = np.minimum(counts, _DRAWN_ROWS)
    ends = np.cumsum(few)
    sums = np.concatenate([[0.0], np.cumsum(1 + rng.pareto(_TAIL, int(ends[-1])))])
    drawn = sums[ends] - sums[ends - few]
    mean = _TAIL / (_TAIL - 1)
    variance = _TAIL / ((_TAIL - 1) ** 2 * (_TAIL - 2))
    normal = counts * mean + rng.standard_normal(DRAWS) * np.sqrt(counts * variance)
    return np.where(counts <= _DRAWN_ROWS, drawn, normal)


def _log_normal(values: Any, counts: Any, rng: Any) -> Any:
    """Totals by a log-normal distribution whose parameters have the usual flat prior.

    A few values can look as if there were no limit. The mean of the distribution is taken to be at most the
    largest value.
    """
    logs, largest = np.log(values), float(values.max())
    count, variance = len(logs), float(logs.var(ddof=1))
    if variance == 0.0:
        return counts * float(values.mean())
    variances = variance * (count - 1) / rng.chisquare(count - 1, DRAWS)
    centers = rng.normal(float(logs.mean()), np.sqrt(variances / count))
    means = np.exp(np.minimum(centers + variances / 2, math.log(largest)))
    # The standard deviation of one row, bounded like the mean.
    spreads = means * np.sqrt(np.expm1(np.minimum(variances, _MAX_VARIANCE)))
    spreads = np.minimum(spreads, _MAX_SPREAD * largest)
    return np.maximum(means * counts + rng.standard_normal(DRAWS) * spreads * np.sqrt(counts), 0.0)


def _input(prompt_chars: Sequence[int], ended: Sequence[EndedRow]) -> Range | None:
    """Input tokens, which follow the length of the prompt almost exactly."""
    tokens = _known([row.input_tokens for row in ended])
    if tokens is None:
        return None
    chars = np.asarray([row.prompt_chars for row in ended if row.input_tokens is not None], dtype=float)
    new = np.asarray(prompt_chars, dtype=float)
    slope, base = 0.0, float(tokens.mean())
    if float(chars.std()) > 0.0:
        fitted = np.polynomial.Polynomial.fit(chars, tokens, 1).convert().coef
        if len(fitted) > 1 and fitted[1] > 0:
            slope, base = float(fitted[1]), float(fitted[0])
    expected = float(np.maximum(new * slope + base, 0.0).sum())
    spread = float((tokens - chars * slope - base).std(ddof=1))
    rows = len(new)
    # 1.2816 is the 90th percentile of the normal distribution.
    margin = 1.2816 * spread * math.sqrt(rows + rows**2 / len(tokens))
    return Range(low=max(0.0, expected - margin), expected=expected, high=expected + margin)


def _cost(
    ended: Sequence[EndedRow],
    rows: int,
    input_tokens: Range | None,
    output: _Totals | None,
    rng: Any,
) -> Range | None:
    """Cost, with the part of the input as its tokens say, if the costs follow from the tokens."""
    costs = _known([row.cost_pico for row in ended])
    if costs is None:
        return None
    if input_tokens is not None and output is not None:
        prices = _prices(ended, costs)
        if prices is not None:
            of_input = (input_tokens.expected or 0.0) * prices[0]
            return output.times(prices[1] / 1e12, of_input / 1e12).range()
    return _totals(costs, rows, rng).times(1e-12).range()


def _prices(ended: Sequence[EndedRow], costs: Any) -> tuple[float, float] | None:
    """Cost of an input and of an output token in pico-dollars; None if the costs do not follow from them."""
    if len(costs) < len(ended):
        return None
    tokens = np.asarray([[row.input_tokens, row.output_tokens] for row in ended], dtype=float)
    if not np.isfinite(tokens).all():
        return None
    linear_algebra: Any = np.linalg
    found, _, rank, _ = linear_algebra.lstsq(tokens, costs, rcond=None)
    left = costs - tokens @ found
    is_exact = float(np.abs(left).sum()) <= 0.02 * float(costs.sum())
    if rank < tokens.shape[1] or not is_exact or float(found.min()) < 0:
        return None
    return float(found[0]), float(found[1])


def _seconds(
    ended: Sequence[EndedRow],
    rows: int,
    in_flight: tuple[float, float] | None,
    rng: Any,
) -> Range | None:
    durations = _known([row.duration_s for row in ended])
    if durations is None or in_flight is None:
        return None
    fewest, most = (max(1.0, min(number, float(rows or 1))) for number in in_flight)
    busy = _totals(durations, rows, rng).range()
    return Range(
        low=busy.low / most, expected=(busy.expected or 0.0) * 2 / (fewest + most), high=busy.high / fewest
    )
