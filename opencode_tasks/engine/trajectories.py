"""Trajectories of the rows of a run, from the messages of the sessions that gave their outcomes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.engine.left_out import RowNotes
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Ledger, system_text_in
from opencode_tasks.ledger.session_sets import OUTCOME_COLUMNS
from opencode_tasks.outcomes.atif import TrajectoryFacts, trajectory
from opencode_tasks.outcomes.session_tree import SessionTree
from opencode_tasks.outcomes.sharegpt import conversation

TrajectoryFormat = Literal["atif", "sharegpt"]
# Rows whose messages are in memory at the same time.
ROWS_PER_READ = 20
NOT_SENT = "left out, without a session"
NOT_KEPT = "left out, without messages in the ledger"
NOT_COMPLETED = "left out, not completed"
NO_ANSWER = "left out, without an answer at the end of the session"


def trajectories(
    ledger: Ledger, run: Mapping[str, Any], record_format: TrajectoryFormat, notes: RowNotes
) -> Iterator[str]:
    """The trajectory of each row as JSON; rows without one are noted.

    Raises InputError at the end if rows have sessions and the messages of all of them are gone.
    """
    run_id, found = run["run_id"], ledger.session_sets
    gone, kept = 0, 0
    for start in range(0, found.positions(run_id), ROWS_PER_READ):
        rows = found.rows(run_id, range(start, start + ROWS_PER_READ), OUTCOME_COLUMNS)
        trees = found.trees([row["session_id"] for row in rows if row["session_id"] is not None])
        for row in rows:
            tree = trees.get(row["session_id"])
            if row["session_id"] is None:
                notes.add(NOT_SENT, row["row_id"])
                continue
            if tree is None or not tree.messages:
                notes.add(NOT_KEPT, row["row_id"])
                gone += 1
                continue
            kept += 1
            line = _atif(run, row, tree) if record_format == "atif" else _sharegpt(run, row, tree, notes)
            if line is not None:
                yield json.dumps(line, ensure_ascii=False)
    if gone and not kept:
        raise InputError((f"run {run_id}: {_gone(run)}",))


def _gone(run: Mapping[str, Any]) -> str:
    if run["backend"] == "null":
        return "the backend null has no sessions, so there is no trajectory"
    return (
        "the messages of its sessions are not in the ledger, so there is no trajectory: they were removed by "
        "opencode-tasks purge, or by OPENCODE_TASKS_STORE_PROMPTS, _STORE_ANSWERS or _STORE_TRACES=false"
    )


def _system(run: Mapping[str, Any], row: Mapping[str, Any]) -> str | None:
    return row["system"] or system_text_in(run["parameters"])


def _atif(run: Mapping[str, Any], row: Mapping[str, Any], tree: SessionTree) -> dict[str, Any] | None:
    is_reviewed = row["answered_by"] is not None
    names = ("row_id", "status", "error_type", "check_passed", "answered_by")
    return trajectory(
        tree,
        TrajectoryFacts(
            agent_version=run["opencode_version"],
            model_ref=row["model_ref"],
            system=_system(run, row),
            extra={
                "run_id": run["run_id"],
                **{name: row[name] for name in names},
                "answer_of_person": row["response"] if is_reviewed else None,
            },
            final_extra={
                "attempts": row["attempts"],
                "cost_usd_of_all_attempts": pico_to_usd(row["cost_pico"]),
            },
        ),
    )


def _sharegpt(
    run: Mapping[str, Any], row: Mapping[str, Any], tree: SessionTree, notes: RowNotes
) -> dict[str, Any] | None:
    if row["status"] != "completed":
        notes.add(NOT_COMPLETED, row["row_id"])
        return None
    answer = row["response"] if row["answered_by"] is not None else None
    found = conversation(tree.messages, system=_system(run, row), answer=answer)
    if found is None:
        notes.add(NO_ANSWER, row["row_id"])
        return None
    return {"id": row["row_id"], **found}
