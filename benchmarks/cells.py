"""Cells of a run of ``speed.py``: the combinations of method and parameters that are measured."""

from __future__ import annotations

from figures import MIN_WAVES
from methods import Cell, Method

ROWS = 1000
REFERENCE_ROWS = 12
QUICK_ROWS = 64
QUICK_REFERENCE_ROWS = 4


def all_cells(rows: int) -> list[Cell]:
    """Return the cells of a full run.

    Cells that are compared follow each other, because the speed of a machine changes over time.
    """
    # For the comparison without latency: the first hundreds of rows of a server are slower.
    many_rows = rows * 5 // 2
    return [
        Cell(method="reference", rows=REFERENCE_ROWS),
        Cell(method="floor", rows=rows, concurrency=32),
        Cell(method="floor", rows=many_rows, concurrency=32, servers=2),
        Cell(method="ray", rows=many_rows),
        Cell(method="threads", rows=many_rows),
        *_grid("ray", rows),
        *_grid("threads", rows),
        Cell(method="postgres", rows=rows, concurrency=32),
        Cell(method="peer", rows=rows, concurrency=32),
        Cell(method="floor", rows=rows, concurrency=64, delay_s=2.0, servers=2),
        Cell(method="ray", rows=rows, concurrency=64, delay_s=2.0),
        Cell(method="threads", rows=rows, concurrency=64, delay_s=2.0),
        Cell(method="peer", rows=rows, concurrency=64, delay_s=2.0),
        Cell(method="floor", rows=rows, concurrency=32, chunks=200, servers=2),
        Cell(method="ray", rows=rows, concurrency=32, chunks=200),
    ]


def _grid(method: Method, rows: int) -> list[Cell]:
    """Return a cell for each concurrency and each batch size, without latency."""
    return [
        *(Cell(method=method, rows=rows, concurrency=concurrency) for concurrency in (8, 32, 64)),
        # A batch of one row is a Prefect task per row. It is slow, so fewer rows are enough.
        Cell(method=method, rows=rows // 4, concurrency=32, batch_size=1),
        Cell(method=method, rows=rows, concurrency=32, batch_size=20),
    ]


def quick_cells(rows: int | None) -> list[Cell]:
    """Return one or two cells for each method.

    ``rows`` None is the smallest number of rows that has a steady state.
    """

    def cell(
        method: Method, concurrency: int | None = None, *, delay_s: float = 0.0, servers: int = 1
    ) -> Cell:
        count = rows or max(QUICK_ROWS, MIN_WAVES * (concurrency or 0))
        return Cell(method=method, rows=count, concurrency=concurrency, delay_s=delay_s, servers=servers)

    return [
        Cell(method="reference", rows=QUICK_REFERENCE_ROWS),
        cell("floor", 32),
        cell("floor", 32, servers=2),
        cell("floor", 64, delay_s=2.0),
        cell("threads"),
        cell("ray"),
        cell("ray", 64, delay_s=2.0),
        cell("postgres", 32),
        cell("peer", 32),
    ]
