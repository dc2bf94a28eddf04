"""Summary of all runs: the figures of each cell, and the most important ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from figures import Figures, median
from methods import Cell, MethodRun

HEAD = (
    *("method", "concurrency", "batch size", "latency", "chunks", "rows", "rows/s", "steady rows/s"),
    *("ratio to floor", "CPU s/row", "steady CPU s/row", "memory MB", "first row s"),
)
# The figures of one round by cell; None for a run that is not valid.
Round = Mapping[Cell, Figures | None]


def rounds_of(runs: Sequence[MethodRun]) -> list[Round]:
    """Group runs into rounds: a cell that the current round already has begins the next one."""
    rounds: list[dict[Cell, Figures | None]] = []
    for run in runs:
        if not rounds or run.cell in rounds[-1]:
            rounds.append({})
        rounds[-1][run.cell] = run.figures
    return rounds


def medians(rounds: Sequence[Round]) -> dict[Cell, Figures | None]:
    """Return the median figures of each cell; None if none of its runs is valid."""
    valid = {cell: [figures for one in rounds if (figures := one.get(cell))] for cell in rounds[0]}
    return {cell: median(found) if found else None for cell, found in valid.items()}


def floor_rate(cell: Cell, one: Round) -> float | None:
    """Return the best steady rows/s of the bare client in the same round with the same provider.

    Returns None if one of its runs has no steady rate, because that run may have been the best one.
    """
    rates = [
        figures and figures.steady_rows_per_s
        for other, figures in one.items()
        if other.method == "floor" and (other.delay_s, other.chunks) == (cell.delay_s, cell.chunks)
    ]
    known = [rate for rate in rates if rate is not None]
    return max(known) if known and len(known) == len(rates) else None


def ratio_to_floor(cell: Cell, rounds: Sequence[Round]) -> float | None:
    """Return the median ratio to the floor over the rounds that have both rates; None if there is none."""
    found = ratios_to_floor(cell, rounds)
    return statistics.median(found) if found else None


def ratios_to_floor(cell: Cell, rounds: Sequence[Round]) -> list[float]:
    """Return the steady rows/s of a cell divided by those of the floor, for each round that has both."""
    return [
        figures.steady_rows_per_s / floor
        for one in rounds
        if (figures := one.get(cell)) and figures.steady_rows_per_s and (floor := floor_rate(cell, one))
    ]


def lines(rounds: Sequence[Round]) -> list[list[str]]:
    """Return the lines of the table with the columns of ``HEAD``."""
    return [
        [
            *(cell.name, cell.concurrency_text, cell.batch_text, f"{cell.delay_s:g} s", str(cell.chunks)),
            str(cell.rows),
            *(
                _figure_cells(figures, ratio_to_floor(cell, rounds))
                if figures
                else ["not valid", *[""] * (len(HEAD) - 7)]
            ),
        ]
        for cell, figures in medians(rounds).items()
    ]


def _figure_cells(figures: Figures, ratio: float | None) -> list[str]:
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
    """Return a figure as text; a dash if it is unknown."""
    return "-" if value is None else f"{value:.{digits}f}"


def ratios(rounds: Sequence[Round]) -> list[list[str]]:
    """Return the most important ratios as lines: name, median of the rounds, and the value of each round."""
    found: list[list[str]] = []
    if to_reference := [ratio for one in rounds if (ratio := _ratio_to_reference(one))]:
        name = "opencode-tasks, Ray, rows/s with defaults / reference, steady; no latency"
        found.append(_ratio_line(name, to_reference, digits=1))
    cases = (((0.0, 1), "no latency"), ((2.0, 1), "2 s, concurrency 64"), ((0.0, 200), "200 chunks"))
    for (delay_s, chunks), name in cases:
        for method in ("ray", "threads"):
            by_cell = {
                cell: found_ratios
                for cell in rounds[0]
                if cell.method == method
                and (cell.delay_s, cell.chunks) == (delay_s, chunks)
                and (delay_s == 0 or cell.concurrency == 64)
                and (found_ratios := ratios_to_floor(cell, rounds))
            }
            if by_cell:
                cell = max(by_cell, key=lambda cell: statistics.median(by_cell[cell]))
                title = f"{cell.name} / floor, steady, best cell of each; {name}"
                found.append(_ratio_line(title, by_cell[cell], digits=2))
    return found


def _ratio_line(name: str, by_round: Sequence[float], *, digits: int) -> list[str]:
    values = ", ".join(number(ratio, digits) for ratio in by_round)
    return [name, number(statistics.median(by_round), digits), values]


def _ratio_to_reference(one: Round) -> float | None:
    reference = next((figures for cell, figures in one.items() if cell.method == "reference"), None)
    on_ray = next((figures for cell, figures in one.items() if cell.method == "ray"), None)
    if reference is None or on_ray is None or reference.steady_rows_per_s is None:
        return None
    return on_ray.rows_per_s / reference.steady_rows_per_s
