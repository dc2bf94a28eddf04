"""What a run has so far, as a table, whatever it is doing meanwhile."""

from __future__ import annotations

from typing import Any

import pandas as pd

from opencode_tasks.engine.result import output_parts
from opencode_tasks.errors import InputError
from opencode_tasks.frames.columns import output_columns
from opencode_tasks.frames.io import Output, read_input
from opencode_tasks.ledger import Ledger
from opencode_tasks.orchestration.block_urls import database_place
from opencode_tasks.plan.incremental import IncrementalInput


def export_run(ledger: Ledger, run_id: str, target: str) -> dict[str, int]:
    """Write OUTPUT of a run as the ledger has it now; its rows by status.

    The input's columns come from the input file again; of a run that had none (``annotate()`` in
    a flow), ``row_id`` and its labels stand for them. Raises InputError where there is no such
    run, the input has another number of rows by now, or the target cannot be written.
    """
    database = database_place(None)
    output = Output(name=target, database=database)
    run = ledger.runs.get(run_id)
    if run is None:
        raise InputError((f"RUN_ID: there is no run {run_id} in this ledger (see: opencode-tasks runs)",))
    command: dict[str, Any] = run["parameters"].get("command") or {}
    if command.get("input"):
        incremental = IncrementalInput.of(command["input"], command.get("incremental"))
        frame = read_input(
            command["input"], database=database, limit=None if incremental else command.get("limit")
        )
        if incremental is not None:
            frame = incremental.rows(frame, ledger, run_id=run_id, limit=None, refresh=False)
        if len(frame) != run["total"]:
            changed = f"{command['input']} has {len(frame)} rows now, the run has {run['total']}"
            raise InputError((f"run {run_id}: {changed}; give it its input back",))
    else:
        frame = pd.DataFrame(
            [
                {"row_id": outcome["row_id"], **(outcome["labels"] or {})}
                for outcome in ledger.results.outcomes(run_id)
            ]
        )
    schema = run["parameters"].get("schema")
    names = [*map(str, frame.columns), *(column.name for column in output_columns(schema))]
    if faults := output.faults(command.get("input") or "", names):
        raise InputError(tuple(faults))
    output.write(output_parts(ledger, run_id, frame, schema), run_id)
    return {name: run[name] for name in ("open", "completed", "failed", "skipped")}
