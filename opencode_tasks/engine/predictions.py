"""Predictions of a run in the form that the evaluation harness of SWE-bench reads.

The fields, and what the harness does without a patch, are those of swebench 5.0.2
(``swebench/harness/utils.py`` and ``run_evaluation.py``): a patch that is empty is counted as such, and an
instance that is not in the file as incomplete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from opencode_tasks.domain.diff_lines import DIFF_BEGIN
from opencode_tasks.domain.text import shorten
from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.engine.left_out import RowNotes
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Ledger
from opencode_tasks.ledger.session_sets import DIFF_COLUMNS
from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.file_store import open_stored

# Rows whose diffs are in memory at the same time.
ROWS_PER_READ = 20
ENDED = ("completed", "failed")
MESSAGE_CHARS = 300


def predictions(ledger: Ledger, run: Mapping[str, Any], notes: RowNotes) -> Iterator[str]:
    """The prediction of each row that has ended, as JSON; the others are noted.

    Raises InputError if the run has no diffs, or if the file of a diff cannot be read.
    """
    run_id, found = run["run_id"], ledger.session_sets
    _check(run, notes)
    for start in range(0, found.positions(run_id), ROWS_PER_READ):
        for row in found.rows(run_id, range(start, start + ROWS_PER_READ), DIFF_COLUMNS):
            if row["status"] not in ENDED:
                notes.add(f"left out, {row['status']}", row["row_id"])
                continue
            yield json.dumps(
                {
                    "instance_id": row["row_id"],
                    "model_name_or_path": row["model_ref"] or run["model_ref"] or "unknown",
                    "model_patch": _patch(run_id, row, notes),
                },
                ensure_ascii=False,
            )


def _check(run: Mapping[str, Any], notes: RowNotes) -> None:
    parameters = run["parameters"]
    if not parameters and run["purged_at"] is not None:
        raise InputError((f"run {run['run_id']}: opencode-tasks purge has removed its diffs",))
    if not parameters.get("has_workspace"):
        fault = "its rows have no workspace, so there are no diffs (see: opencode-tasks annotate --workspace)"
        raise InputError((f"run {run['run_id']}: {fault}",))
    if parameters.get("id_column") is None:
        notes.say("instance_id is the position of the row: the run had no --id-column")


def _patch(run_id: str, row: Mapping[str, Any], notes: RowNotes) -> str:
    if row["diff_url"] is not None:
        text, is_exact = _stored_patch(run_id, row)
        if not is_exact:
            notes.add("with a diff that is not UTF-8, of which other characters are replaced", row["row_id"])
        return text
    if row["diff"] is None and row["files_changed"] is not None:
        fault = "its diff is not in the ledger any more (purge, or OPENCODE_TASKS_STORE_ANSWERS=false)"
        raise InputError((f"run {run_id}, row {row['row_id']}: {fault}",))
    if not row["diff"]:
        notes.add("with an empty patch, which the harness does not run", row["row_id"])
    return row["diff"] or ""


def _stored_patch(run_id: str, row: Mapping[str, Any]) -> tuple[str, bool]:
    """The diff in a file, and whether it is text without a replacement."""
    address = row["diff_url"]
    try:
        with open_stored(address) as file:
            data = file.read()
    except (WorkspaceFaultError, OSError) as fault:
        message = f"run {run_id}, row {row['row_id']}: the file of its diff: {fault}"
        raise InputError((shorten(message, MESSAGE_CHARS),)) from fault
    if data and not data.startswith(DIFF_BEGIN):
        fault = f"the file of its diff is not a diff: {without_url_secrets(address)}"
        raise InputError((f"run {run_id}, row {row['row_id']}: {fault}",))
    try:
        return data.decode(), True
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace"), False
