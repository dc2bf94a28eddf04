"""What is told of all runs: each cell's figures, and the ratios that matter. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from figures import Figures, median
from ways import Cell, Ran

HEAD = (
    *("way", "rows at once", "batch", "latency", "chunks", "rows", "rows/s", "rows/s steady"),
    *("of floor", "CPU s/row", "CPU s/row steady", "memory MB", "first row s"),
)
# The figures of one round by cell, None of a void run.
Round = Mapping[Cell, Figures | None]


def rounds_of(runs: Sequence[Ran]) -> list[Round]:
    """The rounds that these runs were made in: the first cell again begins the next."""
    rounds: list[dict[Cell, Figures | None]] = []
    for ran in runs:
        if not rounds or ran.cell in rounds[-1]:
            rounds.append({})
        rounds[-1][ran.cell] = ran.figures
    return rounds


def medians(rounds: Sequence[Round]) -> dict[Cell, Figures | None]:
    """Each cell's figures; None where every run of it was void."""
    counted = {cell: [figures for one in rounds if (figures := one.get(cell))] for cell in rounds[0]}
    return {cell: median(found) if found else None for cell, found in counted.items()}


def floor_of(cell: Cell, one: Round) -> float | None:
    """The bare client's best steady rows/s in the same case and round; None where one run of it is unknown.

    Its best may be the very run that was void.
    """
    rates = [
        figures and figures.steady_rows_per_s
        for other, figures in one.items()
        if other.way == "floor" and (other.delay_s, other.chunks) == (cell.delay_s, cell.chunks)
    ]
    known = [rate for rate in rates if rate is not None]
    return max(known) if known and len(known) == len(rates) else None


def of_floor(cell: Cell, rounds: Sequence[Round]) -> float | None:
    """A cell's steady rows/s by the floor's, the median of the rounds that have both; None without one."""
    found = of_floor_by_round(cell, rounds)
    return statistics.median(found) if found else None


def of_floor_by_round(cell: Cell, rounds: Sequence[Round]) -> list[float]:
    """A cell's steady rows/s by the floor's, in each round that has both."""
    return [
        figures.steady_rows_per_s / floor
        for one in rounds
        if (figures := one.get(cell)) and figures.steady_rows_per_s and (floor := floor_of(cell, one))
    ]


def lines(rounds: Sequence[Round]) -> list[list[str]]:
    """The table's lines."""
    return [
        [
            *(cell.name, cell.at_once, cell.batch, f"{cell.delay_s:g} s", str(cell.chunks), str(cell.rows)),
            *(_cells_of(figures, of_floor(cell, rounds)) if figures else ["void", *[""] * (len(HEAD) - 7)]),
        ]
        for cell, figures in medians(rounds).items()
    ]


def _cells_of(figures: Figures, ratio: float | None) -> list[str]:
    return [
        number(figures.rows_per_s, 2),
        number(figures.steady_rows_per_s, 2),
        number(ratio, 2),
        number(figures.cpu_s, 3),
        number(figures.steady_cpu_s, 3),
        f"{figures.peak_pss / 1e6:.0f}",
        number(figures.first_row_s, 1),
    ]


def number(value: float | None, digits: int) -> str:
    """A figure for people; a dash where it is unknown."""
    return "-" if value is None else f"{value:.{digits}f}"


def ratios(rounds: Sequence[Round]) -> list[list[str]]:
    """The ratios that matter, those of which both sides were measured: the rounds' median, and each."""
    told: list[list[str]] = []
    if of_reference := [ratio for one in rounds if (ratio := _of_reference(one))]:
        what = "Ray end to end, nothing chosen / reference, steady; no latency"
        told.append(_ratio(what, of_reference, digits=1))
    for case, what in (((0.0, 1), "no latency"), ((2.0, 1), "2 s, 64 at once"), ((0.0, 200), "200 chunks")):
        for way in ("ray", "threads"):
            rates = [
                rate
                for cell in rounds[0]
                if cell.way == way
                and (cell.delay_s, cell.chunks) == case
                and (case[0] == 0 or cell.concurrency == 64)
                and (rate := of_floor_by_round(cell, rounds))
            ]
            if rates:
                name = next(cell.name for cell in rounds[0] if cell.way == way)
                best = max(rates, key=statistics.median)
                told.append(_ratio(f"{name} / floor, steady, the best of each; {what}", best, digits=2))
    return told


def _ratio(what: str, by_round: Sequence[float], *, digits: int) -> list[str]:
    each = ", ".join(number(ratio, digits) for ratio in by_round)
    return [what, number(statistics.median(by_round), digits), each]


def _of_reference(one: Round) -> float | None:
    reference = next((figures for cell, figures in one.items() if cell.way == "reference"), None)
    on_ray = next((figures for cell, figures in one.items() if cell.way == "ray"), None)
    if reference is None or on_ray is None or reference.steady_rows_per_s is None:
        return None
    return on_ray.rows_per_s / reference.steady_rows_per_s
