"""Export: the rows of a run as a table, at any time during the run or after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from opencode_tasks.domain.url_secrets import has_hidden_part
from opencode_tasks.engine.result import STATUSES, output_parts
from opencode_tasks.engine.run_check import checked_run
from opencode_tasks.errors import InputError
from opencode_tasks.frames.columns import output_columns
from opencode_tasks.frames.io import Output, read_table
from opencode_tasks.ledger import Ledger, models_in
from opencode_tasks.plan.command import text_options
from opencode_tasks.plan.incremental import IncrementalInput


def export_run(
    ledger: Ledger,
    run_id: str,
    target: str,
    *,
    database: str | None,
    source: str | None = None,
    protects_cells: bool = False,
) -> dict[str, int]:
    """Write the OUTPUT of a run as the ledger has it now; returns the number of rows by status.

    ``database`` is the resolved URL of ``sql:`` tables, None without one. The columns of the input
    are read from the input again; ``source`` is its address if the stored one lacks a secret.
    ``protects_cells`` is for people who open a CSV file in a spreadsheet. A run
    without a stored input (``annotate()`` in Python) gets ``row_id`` and its labels instead. Raises
    InputError if the run does not exist, if the number of rows in the input has changed, or if the
    target cannot be written.
    """
    run = checked_run(run_id, ledger.runs.get(run_id))
    prefix = run["parameters"].get("column_prefix")
    parameters = run["parameters"]
    columns = output_columns(
        parameters.get("schema"),
        prefix,
        has_votes=(run["votes"] or 0) > 1,
        has_escalation=parameters.get("escalate_to") is not None,
        models=models_in(parameters),
        has_workspace=bool(parameters.get("has_workspace")),
    )
    output = Output(name=target, database=database, prefix=prefix or "", protects_cells=protects_cells)
    command: dict[str, Any] = dict(run["parameters"].get("command") or {})
    command["input"] = source or command.get("input")
    if has_hidden_part(command["input"] or ""):
        fault = "the address of INPUT had a secret, which is not stored: give it again with --input"
        raise InputError((f"run {run_id}: {fault}",))
    if command.get("input"):
        frame = _read_source(ledger, run, command, database)
    else:
        outcomes = ledger.results.outcomes(run_id)
        frame = pd.DataFrame(
            [{"row_id": outcome["row_id"], **(outcome["labels"] or {})} for outcome in outcomes]
        )
    names = [*map(str, frame.columns), *(column.name for column in columns)]
    if faults := output.faults(command.get("input") or "", names):
        raise InputError(tuple(faults))
    output.write(output_parts(ledger, run_id, frame, columns), run_id)
    return {name: run[name] for name in STATUSES}


def _read_source(
    ledger: Ledger, run: Mapping[str, Any], command: dict[str, Any], database: str | None
) -> pd.DataFrame:
    """Read the input of a run again. Raises InputError if its number of rows has changed."""
    source, run_id = command["input"], run["run_id"]
    incremental = IncrementalInput.of(source, command.get("incremental"))
    table = read_table(
        source,
        database=database,
        limit=None if incremental else command.get("limit"),
        keeps_bad_rows=True,
        **text_options(command),
    )
    if incremental is not None:
        table = incremental.rows(table, ledger, run_id=run_id, limit=None, refresh=False)
    frame = table.frame
    if len(frame) != run["total"]:
        changed = f"{source} has {len(frame)} rows now, the run has {run['total']}"
        raise InputError((f"run {run_id}: {changed}; restore the input of the run",))
    return frame
