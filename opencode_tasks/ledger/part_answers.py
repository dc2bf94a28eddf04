"""Answers of the parts of a run to its rows, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from opencode_tasks.ledger.runs import PREPARING, models_in
from opencode_tasks.ledger.schema import CANARY_PART, rows, runs, shown_status

SHOWN_COLUMNS = ("row_id", "response", "structured", "cost_pico")


def answers_of_parts(
    connection: Connection, run_id: str, span: range
) -> dict[str, dict[int, dict[str, Any]]]:
    """Answers of the parts of a run to its rows at these positions, by row id and number of the part.

    Each answer has ``SHOWN_COLUMNS`` and ``status``. Of several parts with one number the last one counts.
    """
    of_run = rows.alias("of_run")
    query = (
        select(*(rows.c[name] for name in SHOWN_COLUMNS), shown_status.label("status"), runs.c.part)
        .select_from(of_run)
        .join(runs, (runs.c.parent_run_id == of_run.c.run_id) & (runs.c.part > CANARY_PART))
        .join(rows, (rows.c.run_id == runs.c.run_id) & (rows.c.row_id == of_run.c.row_id))
        .where(runs.c.status != PREPARING)
        .where(of_run.c.run_id == run_id, of_run.c.position >= span.start, of_run.c.position < span.stop)
        .order_by(runs.c.part, runs.c.created_at)
    )
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for answer in connection.execute(query).mappings():
        found.setdefault(answer["row_id"], {})[answer["part"]] = dict(answer)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PartNames:
    """Purposes of the parts of a run: canaries, then votes or models, then the stronger model."""

    votes: int
    models: Sequence[str]

    def title(self, part: int) -> str:
        """The name of a part for people: that of its model, if the run asks several."""
        if part == CANARY_PART:
            return "canaries"
        if part > self.votes:
            return "stronger model"
        return self.models[part - 1] if part <= len(self.models) else f"vote {part}"


def part_names(connection: Connection, run_id: str) -> PartNames:
    """Titles of the parts of a run. A purge removes the names of the models."""
    query = select(runs.c.votes, runs.c.parameters).where(runs.c.run_id == run_id)
    found = connection.execute(query).one_or_none()
    if found is None:
        return PartNames(votes=0, models=())
    return PartNames(votes=found.votes or 0, models=models_in(found.parameters))
