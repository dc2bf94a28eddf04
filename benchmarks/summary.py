"""What is told of all runs: each cell's figures, and the ratios that matter. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from figures import Figures, median
from ways import Cell, Ran

HEAD = (
    *("way", "rows at once", "batch", "latency", "chunks", "rows", "rows/s", "rows/s steady"),
    *("of floor", "CPU s/row", "CPU s/row steady", "memory MB", "first row s"),
)
Medians = dict[Cell, Figures | None]


def medians(cells: Sequence[Cell], runs: Sequence[Ran]) -> Medians:
    """Each cell's figures; None where every run of it was void."""
    counted = {cell: [ran.figures for ran in runs if ran.cell == cell and ran.figures] for cell in cells}
    return {cell: median(found) if found else None for cell, found in counted.items()}


def floor_of(cell: Cell, found: Medians) -> float | None:
    """The bare client's best steady rows/s in the same case; None where it was not measured."""
    rates = [
        figures.steady_rows_per_s
        for other, figures in found.items()
        if other.way == "floor"
        and (other.delay_s, other.chunks) == (cell.delay_s, cell.chunks)
        and figures is not None
        and figures.steady_rows_per_s is not None
    ]
    return max(rates, default=None)


def of_floor(cell: Cell, found: Medians) -> float | None:
    """A cell's steady rows/s by the floor's; None where either is unknown."""
    floor, figures = floor_of(cell, found), found[cell]
    if figures is None or figures.steady_rows_per_s is None or floor is None:
        return None
    return figures.steady_rows_per_s / floor


def lines(found: Medians) -> list[list[str]]:
    """The table's lines."""
    return [
        [
            *(cell.name, cell.at_once, cell.batch, f"{cell.delay_s:g} s", str(cell.chunks), str(cell.rows)),
            *(_cells_of(figures, of_floor(cell, found)) if figures else ["void", *[""] * (len(HEAD) - 7)]),
        ]
        for cell, figures in found.items()
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


def ratios(found: Medians) -> list[list[str]]:
    """The ratios that matter, those of which both sides were measured."""
    told: list[list[str]] = []
    reference = next((figures for cell, figures in found.items() if cell.way == "reference"), None)
    on_ray = next((figures for cell, figures in found.items() if cell.way == "ray"), None)
    if reference and on_ray and reference.steady_rows_per_s:
        ratio = on_ray.rows_per_s / reference.steady_rows_per_s
        told.append(["Ray end to end, nothing chosen / reference, steady; no latency", f"{ratio:.1f}"])
    for case, what in (((0.0, 1), "no latency"), ((2.0, 1), "2 s, 64 at once"), ((0.0, 200), "200 chunks")):
        for way in ("ray", "threads"):
            rates = [
                rate
                for cell in found
                if cell.way == way
                and (cell.delay_s, cell.chunks) == case
                and (case[0] == 0 or cell.concurrency == 64)
                and (rate := of_floor(cell, found)) is not None
            ]
            if rates:
                name = next(cell.name for cell in found if cell.way == way)
                told.append([f"{name} / floor, steady, the best of each; {what}", f"{max(rates):.2f}"])
    return told
