"""Which cells a run of ``speed.py`` has."""

from __future__ import annotations

from figures import WAVES
from ways import Cell, Way

ROWS = 1000
REFERENCE_ROWS = 12
QUICK_ROWS = 64
QUICK_REFERENCE_ROWS = 4


def all_cells(rows: int) -> list[Cell]:
    """The cells of a full run."""
    # What is compared without latency: a server gets faster for some hundreds of rows.
    long = rows * 5 // 2
    floor = [
        Cell(way="floor", rows=rows, concurrency=32),
        Cell(way="floor", rows=long, concurrency=32, servers=2),
        Cell(way="floor", rows=rows, concurrency=64, delay_s=2.0, servers=2),
        Cell(way="floor", rows=rows, concurrency=32, chunks=200, servers=2),
    ]
    project = [
        *_grid("ray", rows, long),
        Cell(way="ray", rows=rows, concurrency=32, chunks=200),
        *_grid("threads", rows, long),
        Cell(way="postgres", rows=rows, concurrency=32),
    ]
    peer = [
        Cell(way="peer", rows=rows, concurrency=32),
        Cell(way="peer", rows=rows, concurrency=64, delay_s=2.0),
    ]
    return [Cell(way="reference", rows=REFERENCE_ROWS), *floor, *project, *peer]


def _grid(way: Way, rows: int, long: int) -> list[Cell]:
    """Nothing chosen, each concurrency, each batch size, and a latency."""
    return [
        Cell(way=way, rows=long),
        *(Cell(way=way, rows=rows, concurrency=at_once) for at_once in (8, 32, 64)),
        # A batch of one row is a Prefect task for each row: slow enough to be told by fewer.
        Cell(way=way, rows=rows // 4, concurrency=32, batch_size=1),
        Cell(way=way, rows=rows, concurrency=32, batch_size=20),
        Cell(way=way, rows=rows, concurrency=64, delay_s=2.0),
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
