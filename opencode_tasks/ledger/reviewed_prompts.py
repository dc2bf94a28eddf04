"""Prompts that persons have answered, as examples for the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, or_, select

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.ledger.schema import reviews, rows, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedPrompt:
    """A prompt with the answer of a person. ``system`` and ``row_key`` are those of the row."""

    prompt: str
    response: str
    system: str | None
    row_key: str


def reviewed_prompts(
    connection: Connection, is_like: Callable[[Mapping[str, Any]], bool], *, until: datetime
) -> list[ReviewedPrompt]:
    """The answers of persons that counted at a time, the newest first; a prompt once for each key.

    They are of runs whose saved parameters ``is_like`` accepts. Later reviews and later undos change nothing.
    """
    of_runs = select(runs.c.run_id, runs.c.parameters).where(runs.c.run_id.in_(select(reviews.c.run_id)))
    like = [run.run_id for run in connection.execute(of_runs) if is_like(mapping_in(run.parameters))]
    is_of_row = and_(reviews.c.run_id == rows.c.run_id, reviews.c.row_id == rows.c.row_id)
    query = (
        select(rows.c.run_id, rows.c.row_id, rows.c.prompt, reviews.c.response, rows.c.system, rows.c.row_key)
        .join(reviews, is_of_row)
        .where(
            rows.c.run_id.in_(like),
            reviews.c.reviewed_at <= until,
            or_(reviews.c.undone_at.is_(None), reviews.c.undone_at > until),
            rows.c.prompt.is_not(None),
        )
        .order_by(reviews.c.reviewed_at.desc(), rows.c.run_id, rows.c.position)
    )
    of_rows = set[tuple[str, str]]()
    found: dict[tuple[str, str], ReviewedPrompt] = {}
    for run_id, row_id, prompt, response, system, row_key in connection.execute(query):
        # An older review of the row, or one whose answer was purged.
        if (run_id, row_id) in of_rows or response is None:
            continue
        of_rows.add((run_id, row_id))
        one = ReviewedPrompt(prompt=prompt, response=response, system=system, row_key=row_key)
        found.setdefault((prompt, row_key), one)
    return list(found.values())
