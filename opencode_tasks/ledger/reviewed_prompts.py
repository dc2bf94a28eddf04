"""Prompts that persons have answered, as examples for the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.ledger.review_outcomes import IS_CURRENT
from opencode_tasks.ledger.schema import reviews, rows, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedPrompt:
    """A prompt with the answer of a person. ``system`` and ``row_key`` are those of the row."""

    prompt: str
    response: str
    system: str | None
    row_key: str


def reviewed_prompts(
    connection: Connection, is_like: Callable[[Mapping[str, Any]], bool], *, until: datetime, limit: int
) -> list[ReviewedPrompt]:
    """Prompts that persons answered until a time, at most ``limit``, each once, the newest review first.

    They are of runs whose saved parameters ``is_like`` accepts. Reviews that were undone do not count.
    """
    of_runs = select(runs.c.run_id, runs.c.parameters).where(runs.c.run_id.in_(select(reviews.c.run_id)))
    like = [run.run_id for run in connection.execute(of_runs) if is_like(mapping_in(run.parameters))]
    query = (
        select(rows.c.prompt, rows.c.response, rows.c.system, rows.c.row_key)
        .join(reviews, IS_CURRENT)
        .where(
            rows.c.run_id.in_(like),
            reviews.c.reviewed_at <= until,
            rows.c.prompt.is_not(None),
            rows.c.response.is_not(None),
        )
        .order_by(reviews.c.reviewed_at.desc(), rows.c.run_id, rows.c.position)
    )
    found: dict[str, ReviewedPrompt] = {}
    for row in connection.execute(query).mappings():
        found.setdefault(row["prompt"], ReviewedPrompt(**row))
        if len(found) == limit:
            break
    return list(found.values())
