"""Tables in CSV between the ways and the one that measures them, and for people to read."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def read_prompts(path: Path) -> list[str]:
    """The prompts of an input."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row["prompt"] for row in csv.DictReader(file)]


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows that have the same columns, ``prompt`` and for an output ``response``."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_answers(path: Path) -> dict[str, str]:
    """The answers of an output by prompt; a row that did not complete has none."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            row["prompt"]: row["response"]
            for row in csv.DictReader(file)
            if row.get("status", "completed") == "completed"
        }


def drawn(head: Sequence[str], lines: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """A table as text, the first column to the left and the others to the right."""
    if markdown:
        rule = ["---", *("---:" for _ in head[1:])]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))
    widths = [max(len(cells[column]) for cells in (head, *lines)) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in (head, *lines)
    )
