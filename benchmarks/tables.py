"""CSV files that the compared methods read and write, and tables as text."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def read_prompts(path: Path) -> list[str]:
    """Return the column ``prompt`` of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row["prompt"] for row in csv.DictReader(file)]


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows with the same columns, one at least, to a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_answers(path: Path) -> dict[str, str]:
    """Return the answers of completed rows by prompt; {} if there is no file."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            row["prompt"]: row["response"]
            for row in csv.DictReader(file)
            if row.get("status", "completed") == "completed"
        }


def format_table(head: Sequence[str], lines: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Return a table as text. The first column is left-aligned, the others are right-aligned."""
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
