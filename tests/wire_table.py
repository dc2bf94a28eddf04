"""Try every case on every wire through the real opencode, and print the table: ``make wires``.

    python tests/wire_table.py [--backend server|cli] [--write]

A cell is right if the class of the error, the number of requests, the reset time, the tokens and the cost
are. ``--write`` puts the table into ``docs/reference/wires.md``. The exit code is 1 if a cell is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rig import Rig
from wire_cases import CASES, WIRES, faults_of, wired_rig

from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.opencode.binary import find_binary
from opencode_tasks.testing import Wire

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "wires.md"
# Prompts in flight: a prompt of the cli backend is two short processes of opencode.
SIDE_BY_SIDE = 3
Cells = Mapping[tuple[str, str], str]


def tried(rig: Rig, backend: BackendName) -> dict[tuple[str, str], str]:
    """The text of each cell, by case and wire. The wires of a case are tried side by side."""
    cells: dict[tuple[str, str], str] = {}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for name in CASES:
            found = pool.map(partial(_cell, rig, backend, name), WIRES)
            cells |= {(name, wire): cell for wire, cell in zip(WIRES, found, strict=True)}
            print(f"{backend}: {name}: {_summary(cells, name)}", file=sys.stderr, flush=True)
    return cells


def _cell(rig: Rig, backend: BackendName, name: str, wire: Wire) -> str:
    _, faults = faults_of(rig, wire, name, backend)
    return "; ".join(faults) or "right"


def _summary(cells: Cells, name: str) -> str:
    wrong = {wire: cells[name, wire] for wire in WIRES if cells[name, wire] != "right"}
    return str(wrong or "right")


def table(cells: Cells) -> str:
    """The cells as a table, with the right class of each case."""
    rows = [f"| case | right | {' | '.join(WIRES)} |", "|" + "---|" * (len(WIRES) + 2)]
    for name, case in CASES.items():
        right = f"`{case.error.error_type}`" if case.error else "completed"
        rows.append(f"| {name} | {right} | {' | '.join(cells[name, wire] for wire in WIRES)} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Try the cases; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=["server", "cli"], help="only this backend; both without it")
    parser.add_argument("--write", action="store_true", help="write the page of the documentation")
    given = parser.parse_args()
    backends: list[BackendName] = [given.backend] if given.backend else ["server", "cli"]
    with wired_rig(find_binary(None)) as rig:
        found = {backend: tried(rig, backend) for backend in backends}
    parts = [f"## Backend {backend}\n\n{table(cells)}" for backend, cells in found.items()]
    print("\n".join(parts))
    if given.write:
        head, *known = PAGE.read_text(encoding="utf-8").split("## Backend ")
        kept = [part for part in known if part.split()[0] not in found]
        sections = [*(f"## Backend {part.rstrip()}\n" for part in kept), *parts]
        PAGE.write_text(head + "\n".join(sorted(sections, reverse=True)), encoding="utf-8")
    return int(any(cell != "right" for cells in found.values() for cell in cells.values()))


if __name__ == "__main__":
    sys.exit(main())
