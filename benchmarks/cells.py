"""Which cells a run of ``speed.py`` has."""

from __future__ import annotations

from figures import WAVES
from ways import Cell, Way

ROWS = 1000
REFERENCE_ROWS = 12
QUICK_ROWS = 64
QUICK_REFERENCE_ROWS = 4


def all_cells(rows: int) -> list[Cell]:
    """The cells of a full run, those that are compared beside each other: machines change their speed."""
    # What is compared without latency: a server gets faster for some hundreds of rows.
    long = rows * 5 // 2
    return [
        Cell(way="reference", rows=REFERENCE_ROWS),
        Cell(way="floor", rows=rows, concurrency=32),
        Cell(way="floor", rows=long, concurrency=32, servers=2),
        Cell(way="ray", rows=long),
        Cell(way="threads", rows=long),
        *_grid("ray", rows),
        *_grid("threads", rows),
        Cell(way="postgres", rows=rows, concurrency=32),
        Cell(way="peer", rows=rows, concurrency=32),
        Cell(way="floor", rows=rows, concurrency=64, delay_s=2.0, servers=2),
        Cell(way="ray", rows=rows, concurrency=64, delay_s=2.0),
        Cell(way="threads", rows=rows, concurrency=64, delay_s=2.0),
        Cell(way="peer", rows=rows, concurrency=64, delay_s=2.0),
        Cell(way="floor", rows=rows, concurrency=32, chunks=200, servers=2),
        Cell(way="ray", rows=rows, concurrency=32, chunks=200),
    ]


def _grid(way: Way, rows: int) -> list[Cell]:
    """Each concurrency and each batch size, without latency."""
    return [
        *(Cell(way=way, rows=rows, concurrency=at_once) for at_once in (8, 32, 64)),
        # A batch of one row is a Prefect task for each row: slow enough to be told by fewer.
        Cell(way=way, rows=rows // 4, concurrency=32, batch_size=1),
        Cell(way=way, rows=rows, concurrency=32, batch_size=20),
    ]


def quick_cells(rows: int | None) -> list[Cell]:
    """A cell or two of each way; rows None means few, but enough to tell the steady state."""

    def cell(way: Way, at_once: int | None = None, *, delay_s: float = 0.0, servers: int = 1) -> Cell:
        count = rows or max(QUICK_ROWS, WAVES * (at_once or 0))
        return Cell(way=way, rows=count, concurrency=at_once, delay_s=delay_s, servers=servers)

    return [
        Cell(way="reference", rows=QUICK_REFERENCE_ROWS),
        cell("floor", 32),
        cell("floor", 32, servers=2),
        cell("floor", 64, delay_s=2.0),
        cell("threads"),
        cell("ray"),
        cell("ray", 64, delay_s=2.0),
        cell("postgres", 32),
        cell("peer", 32),
    ]
