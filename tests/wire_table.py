"""Try every case on every wire through the real opencode, and print the table: ``make wires``.

    python tests/wire_table.py [--backend server|cli] [--case NAME]... [--untried] [--write]

A cell is right if the class of the error, the number of requests, the reset time, the tokens and the cost
are. ``--write`` puts each case into ``docs/reference/wires.md`` after it was tried; cells of other cases stay
as they are there. The exit code is 1 if a cell is wrong or was never tried.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rig import Rig
from wire_cases import CASES, WIRES, faults_of, wired_rig

from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.opencode.binary import find_binary
from opencode_tasks.testing import Wire

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "wires.md"
SECTION = "## Backend "
RIGHT, UNTRIED = "right", "not tried"
BACKENDS: tuple[BackendName, ...] = ("server", "cli")
# Prompts in flight: a prompt of the cli backend is two short processes of opencode.
SIDE_BY_SIDE = 4
Cells = Mapping[tuple[str, str], str]


def tried(rig: Rig, backend: BackendName, name: str) -> dict[tuple[str, str], str]:
    """The cells of a case. Its wires are tried side by side."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        found = pool.map(partial(_cell, rig, backend, name), WIRES)
        return {(name, wire): cell for wire, cell in zip(WIRES, found, strict=True)}


def _cell(rig: Rig, backend: BackendName, name: str, wire: Wire) -> str:
    _, faults = faults_of(rig, wire, name, backend)
    return "; ".join(faults) or RIGHT


def read_page() -> dict[BackendName, dict[tuple[str, str], str]]:
    """The cells of the page, by backend."""
    pages: dict[BackendName, dict[tuple[str, str], str]] = {backend: {} for backend in BACKENDS}
    _, *sections = PAGE.read_text(encoding="utf-8").split(SECTION)
    for section in sections:
        backend: BackendName = next(backend for backend in BACKENDS if section.startswith(backend))
        pages[backend] = dict(_read_cells(section))
    return pages


def _read_cells(section: str) -> Iterator[tuple[tuple[str, str], str]]:
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    for name, _, *cells in rows[1:]:
        yield from (((name, wire), cell) for wire, cell in zip(rows[0][2:], cells, strict=True))


def write_page(pages: Mapping[BackendName, Cells]) -> None:
    """Replace the tables of the page."""
    head = PAGE.read_text(encoding="utf-8").split(SECTION)[0]
    PAGE.write_text(head + "\n".join(section(*page) for page in pages.items()), encoding="utf-8")


def section(backend: BackendName, cells: Cells) -> str:
    """The cells of a backend as a table, with the right class of each case."""
    rows = [f"| case | right | {' | '.join(WIRES)} |", "|" + "---|" * (len(WIRES) + 2)]
    for name, case in CASES.items():
        right = f"`{case.error.error_type}`" if case.error else "completed"
        found = (cells.get((name, wire), UNTRIED) for wire in WIRES)
        rows.append(f"| {name} | {right} | {' | '.join(found)} |")
    return f"{SECTION}{backend}\n\n" + "\n".join(rows) + "\n"


def is_tried(cells: Cells, name: str) -> bool:
    """Whether the case was tried on all wires."""
    return all(cells.get((name, wire), UNTRIED) != UNTRIED for wire in WIRES)


def main() -> int:
    """Try the cases; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=BACKENDS, help="only this backend; both without it")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case; all without it")
    parser.add_argument("--untried", action="store_true", help="only cases that the page does not have")
    parser.add_argument("--write", action="store_true", help="write the page of the documentation")
    given = parser.parse_args()
    backends: list[BackendName] = [given.backend] if given.backend else list(BACKENDS)
    pages = read_page()
    with wired_rig(find_binary(None)) as rig:
        for backend in backends:
            cells = pages[backend]
            for name in given.case or CASES:
                if given.untried and is_tried(cells, name):
                    continue
                cells |= tried(rig, backend, name)
                wrong = {wire: cells[name, wire] for wire in WIRES if cells[name, wire] != RIGHT}
                print(f"{backend}: {name}: {wrong or RIGHT}", file=sys.stderr, flush=True)
                if given.write:
                    write_page(pages)
    print("\n".join(section(backend, pages[backend]) for backend in backends))
    shown = [cell for backend in backends for cell in pages[backend].values()]
    is_complete = all(is_tried(pages[backend], name) for backend in backends for name in CASES)
    return int(not is_complete or any(cell != RIGHT for cell in shown))


if __name__ == "__main__":
    sys.exit(main())
