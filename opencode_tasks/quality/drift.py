"""Drift: whether the canaries of a run are within the usual range of earlier runs. Pure.

The usual range of a share (accuracy, failed rows, changed answers) is the set of counts that the one-sided
hypergeometric test (Fisher's exact test) against the pooled earlier runs does not reject. That of a mean for
each row (tokens, cost) is the prediction interval of Student's t for one more run, at least 5 % of the mean
on either side. All measures of a run share one rate of false alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.quality.gold import statistics

MeasureName = Literal["accuracy", "failed", "changed", "input_tokens", "output_tokens", "cost_usd"]

MIN_EARLIER_RUNS = 5
MAX_EARLIER_RUNS = 30
ALARM_RATE = 0.01
"""Most runs without a change that report a drift, as a share."""
MIN_CHANGE = 0.05
"""Change of a mean that is never a drift: equal prompts of a few rows can have a spread of 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryRow:
    """Outcome of one canary; unknown numbers are None."""

    position: int
    is_completed: bool
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_pico: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryRun:
    """The canaries of one run, which its part ``part_id`` sent.

    ``correct`` has for each field with gold values the number of correct answers and of answers, ``changed``
    the number of answers that differ from those of the last run without a drift, and of the compared ones.
    """

    run_id: str
    part_id: str
    rows: Sequence[CanaryRow]
    correct: Mapping[str, tuple[int, int]]
    changed: tuple[int, int] = (0, 0)
    has_drift: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryMeasure:
    """One measure of the canaries of a run.

    Attributes:
        name: ``accuracy``, ``failed`` and ``changed`` are shares of rows; ``input_tokens``, ``output_tokens``
            and ``cost_usd`` are means for each completed row.
        field: Field of the answers that ``accuracy`` is about; None for other measures.
        value: The measured value.
        low: Lower end of the usual range; None if too few earlier runs are known.
        high: Upper end of the usual range; None if too few earlier runs are known.

    Examples:
        >>> from opencode_tasks import CanaryMeasure
        >>> CanaryMeasure(name="accuracy", field="response", value=0.6, low=0.8, high=1.0).is_drift
        True
    """

    name: MeasureName
    field: str | None = None
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_drift(self) -> bool:
        """Whether the value is outside the usual range."""
        return self.low is not None and self.high is not None and not self.low <= self.value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryReport:
    """Measures of the canaries of a run, compared with earlier runs over the same canaries.

    Attributes:
        run_id: Id in the ledger of the part of the run that sent the canaries.
        rows: Number of canaries.
        earlier_runs: Number of earlier runs that give the usual range.
        needed_runs: Number of earlier runs without which there is no usual range.
        measures: The measures.
        since: Id of the run in which the drift began; None without a drift.

    Examples:
        >>> from opencode_tasks import CanaryMeasure, CanaryReport
        >>> failed = CanaryMeasure(name="failed", value=0.0, low=0.0, high=0.1)
        >>> report = CanaryReport(run_id="r-0-4e9a72", rows=20, earlier_runs=6, measures=(failed,))
        >>> report.has_drift
        False
    """

    run_id: str
    rows: int
    earlier_runs: int
    needed_runs: int = MIN_EARLIER_RUNS
    measures: tuple[CanaryMeasure, ...] = ()
    since: str | None = None

    @property
    def has_drift(self) -> bool:
        """Whether a measure is outside its usual range."""
        return any(one.is_drift for one in self.measures)


Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Measured:
    """A value, and the function that gives its usual range for a rate of false alarms; None if unknown."""

    name: MeasureName
    field: str | None
    value: float
    usual: Callable[[float], Range] | None


def judge(current: CanaryRun, earlier: Sequence[CanaryRun]) -> CanaryReport:
    """Compare the canaries of a run with those of earlier runs, oldest first."""
    usual, drifted = usual_runs(earlier)
    found = [*_shares(current, usual), *_means(current, usual)]
    compared = sum(one.usual is not None for one in found)
    measures = tuple(_measure(one, ALARM_RATE / max(1, compared)) for one in found)
    has_drift = any(one.is_drift for one in measures)
    first = drifted[0].run_id if drifted else current.run_id
    return CanaryReport(
        run_id=current.part_id,
        rows=len(current.rows),
        earlier_runs=len(usual),
        measures=measures,
        since=first if has_drift else None,
    )


def usual_runs(earlier: Sequence[CanaryRun]) -> tuple[list[CanaryRun], list[CanaryRun]]:
    """The runs that give the usual range, at most 30, and the runs with a drift since the last one without.

    A run with a drift does not change the usual range. A drift that lasts for five runs becomes usual.
    """
    usual, drifted = list[CanaryRun](), list[CanaryRun]()
    for run in earlier:
        if not run.has_drift:
            usual.append(run)
            drifted = []
            continue
        drifted.append(run)
        if len(drifted) == MIN_EARLIER_RUNS:
            usual, drifted = drifted, []
    return usual[-MAX_EARLIER_RUNS:], drifted


def _measure(one: _Measured, rate: float) -> CanaryMeasure:
    low, high = (None, None) if one.usual is None else one.usual(rate)
    return CanaryMeasure(name=one.name, field=one.field, value=one.value, low=low, high=high)


def _shares(current: CanaryRun, usual: Sequence[CanaryRun]) -> list[_Measured]:
    """The shares of rows. Fewer failed rows, and fewer changed answers, are no drift."""
    found = [
        _share("accuracy", field, counts, [run.correct.get(field, (0, 0)) for run in usual], has_low=True)
        for field, counts in current.correct.items()
    ]
    found.append(_share("failed", None, _failed(current), [_failed(run) for run in usual], has_low=False))
    found.append(_share("changed", None, current.changed, [run.changed for run in usual], has_low=False))
    return [one for one in found if one is not None]


def _failed(run: CanaryRun) -> tuple[int, int]:
    return sum(not row.is_completed for row in run.rows), len(run.rows)


def _share(
    name: MeasureName,
    field: str | None,
    counts: tuple[int, int],
    earlier: Sequence[tuple[int, int]],
    *,
    has_low: bool,
) -> _Measured | None:
    """A share of ``counts``: how many rows, of how many; None without rows."""
    count, of = counts
    if not of:
        return None
    known = [one for one in earlier if one[1]]

    def usual(rate: float) -> Range:
        return share_range(
            of, sum(one for one, _ in known), sum(total for _, total in known), rate, has_low=has_low
        )

    return _Measured(name, field, count / of, usual if _is_enough(name, known, earlier) else None)


def _is_enough(name: MeasureName, known: Sequence[Any], earlier: Sequence[Any]) -> bool:
    # The first of the earlier runs has no run before it to compare its answers with.
    needed = MIN_EARLIER_RUNS - 1 if name == "changed" else MIN_EARLIER_RUNS
    return len(known) >= needed and len(earlier) >= MIN_EARLIER_RUNS


def share_range(of: int, earlier: int, earlier_of: int, rate: float, *, has_low: bool) -> Range:
    """The usual shares of ``of`` rows, given earlier counts, with this rate of false alarms.

    Without ``has_low`` no share is too low.
    """
    hypergeom = statistics().hypergeom
    counts = range(of + 1)
    both = [earlier + count for count in counts]
    tail = rate / 2 if has_low else rate
    at_most = hypergeom.cdf(counts, earlier_of + of, both, of)
    at_least = hypergeom.sf([count - 1 for count in counts], earlier_of + of, both, of)
    usual = [count for count in counts if at_least[count] >= tail and (not has_low or at_most[count] >= tail)]
    return (min(usual) / of if has_low else 0.0), max(usual) / of


_VALUES: Mapping[MeasureName, Callable[[CanaryRow], float | None]] = {
    "input_tokens": lambda row: row.input_tokens,
    "output_tokens": lambda row: row.output_tokens,
    "cost_usd": lambda row: pico_to_usd(row.cost_pico),
}


def _means(current: CanaryRun, usual: Sequence[CanaryRun]) -> list[_Measured]:
    """The means for each completed row."""
    found: list[_Measured] = []
    for name, value_of in _VALUES.items():
        value, *others = row_means([current, *usual], value_of)
        known = [other for other in others if other is not None]

        def range_of(rate: float, known: Sequence[float] = known) -> Range:
            return mean_range(known, rate)

        if value is not None:
            found.append(_Measured(name, None, value, range_of if len(known) >= MIN_EARLIER_RUNS else None))
    return found


def row_means(runs: Sequence[CanaryRun], value_of: Callable[[CanaryRow], float | None]) -> list[float | None]:
    """The mean of a value over the rows of each run; None for a run without any.

    A row without a value, such as a failed one, counts with its mean over the other runs: else a long prompt
    that failed would change the mean.
    """
    values = [
        {row.position: value for row in run.rows if row.is_completed and (value := value_of(row)) is not None}
        for run in runs
    ]
    of_rows = {at: fmean(of_run[at] for of_run in values if at in of_run) for one in values for at in one}
    return [
        fmean(of_run.get(at, mean) for at, mean in of_rows.items()) if of_run else None for of_run in values
    ]


def mean_range(earlier: Sequence[float], rate: float) -> Range:
    """The usual values of one more run, given the means of earlier ones, with this rate of false alarms."""
    runs, mean = len(earlier), fmean(earlier)
    factor = float(statistics().t.ppf(1 - rate / 2, runs - 1))
    width = max(factor * stdev(earlier) * (1 + 1 / runs) ** 0.5, MIN_CHANGE * mean)
    return max(0.0, mean - width), mean + width


def report_json(report: CanaryReport) -> dict[str, Any]:
    """A report as a JSON object."""
    return {
        "run_id": report.run_id,
        "rows": report.rows,
        "earlier_runs": report.earlier_runs,
        "needed_runs": report.needed_runs,
        "has_drift": report.has_drift,
        "since": report.since,
        "measures": [
            {
                **{name: getattr(one, name) for name in ("name", "field", "value", "low", "high")},
                "is_drift": one.is_drift,
            }
            for one in report.measures
        ],
    }


def report_in(found: Mapping[str, Any]) -> CanaryReport:
    """The report that ``report_json`` made an object of."""
    measures = tuple(
        CanaryMeasure(**{name: value for name, value in one.items() if name != "is_drift"})
        for one in found["measures"]
    )
    values = {name: value for name, value in found.items() if name not in ("measures", "has_drift")}
    return CanaryReport(**values, measures=measures)
