"""Print the annotated rows, the usage and the page of the run that ``make demo`` created."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from opencode_tasks.ledger import Ledger

HERE = Path(__file__).resolve().parent
# Written by ``opencode-tasks view --export``.
PAGE = HERE / "page" / "index.html"
TOKENS = ("input_tokens", "cache_read_tokens", "output_tokens")
PICO_DOLLARS = 10**12
# The width of the tables if stdout is not a terminal.
DEFAULT_WIDTH = 160


def main() -> None:
    """Print both tables, and at the end the address of the page and the command for corrections."""
    console = Console(width=None if Console().is_terminal else DEFAULT_WIDTH)
    console.print(annotated_rows(pd.read_parquet(HERE / "reviews.parquet")))
    with Ledger.open(str(HERE / "ledger.db")) as ledger:
        run = ledger.runs.newest(limit=1)[0]
        if run["reused"]:
            console.print(f"{run['reused']} of {run['total']} answers are reused from an earlier run.")
        console.print(usage_by_model(str(run["run_id"]), ledger))
    # On one line, however narrow the terminal is.
    print(f"Read the rows in a browser: {PAGE.as_uri()}")
    print("Read and correct them: opencode-tasks view --ledger demo/ledger.db")


def annotated_rows(frame: pd.DataFrame) -> Table:
    """Return a table with a line for each row: review, label of a person, answer, status, tokens, seconds."""
    table = Table(
        *("id", "text", "human", "response", "status", "tokens in", "tokens out", "seconds"),
        title="Annotated rows",
    )
    for row in frame.to_dict("records"):
        counts = [row["input_tokens"], row["output_tokens"]]
        cells = (
            row["id"],
            row["text"],
            row["human"],
            row["response"],
            row["status"],
            *counts,
            row["duration_s"],
        )
        table.add_row(*(Text(cell_text(cell)) for cell in cells))
    return table


def usage_by_model(run_id: str, ledger: Ledger) -> Table:
    """Return a table with a line for each model: model calls, tokens and cost of the run."""
    table = Table("model", "calls", *TOKENS, "cost_usd", title=f"Usage of run {run_id}")
    steps = pd.DataFrame(ledger.results.usage(run_id))
    if steps.empty:
        return table
    for model_ref, calls in steps.groupby("model_ref"):
        # If one count is unknown, the sum is unknown.
        sums = [calls[column].sum(skipna=False) for column in (*TOKENS, "cost_pico")]
        cost = None if pd.isna(sums[-1]) else f"{sums[-1] / PICO_DOLLARS:.6f}"
        table.add_row(*(cell_text(cell) for cell in (model_ref, len(calls), *sums[:-1], cost)))
    return table


def cell_text(value: object) -> str:
    """Return the text of a cell: "" for null, no decimals for whole numbers, two for others."""
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.2f}"
    return str(value)


if __name__ == "__main__":
    main()
