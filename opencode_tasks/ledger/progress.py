"""Progress of runs: rows by status, and usage so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, Select, func, not_, select

from opencode_tasks.domain.records import RowStatus
from opencode_tasks.ledger.schema import CANARY_PART, attempts, rows, runs, shown_status, usage
from opencode_tasks.ledger.usage_sums import count_if, known_sums, sums

# Fewer rows say too little about the cost of others.
MIN_ENDED_ROWS = 5
ROW_STATUSES: tuple[RowStatus, ...] = get_args(RowStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Rows of a run by status, and its usage so far. Reused answers add no usage.

    Attributes:
        total: Number of rows.
        open: Number of rows without an outcome.
        completed: Number of rows with an answer.
        failed: Number of failed rows.
        skipped: Number of rows that the budget left out.
        reused: Number of rows with the answer of an earlier run; they are also counted in their status.
        input_tokens: Input tokens without cache reads and writes; a token count is None if a part is unknown.
        cache_read_tokens: Input tokens that providers read from a cache.
        cache_write_tokens: Input tokens that providers wrote to a cache.
        output_tokens: Output tokens without reasoning.
        reasoning_tokens: Output tokens of the reasoning.
        cost_pico: Cost in pico-dollars (1e-12 US dollars); None if a part is unknown.
        known_cost_pico: Sum of the known costs in pico-dollars.
        unknown_attempts: Number of attempts, running ones included, with possibly more usage than reported.
        unreported_calls: Number of ended model calls whose usage the provider did not report.
        sent_rows: Number of rows that were sent and have ended.
        reviewed: Number of rows with the answer of a person; they are also counted in their status.
        canary_cost_pico: Part of ``known_cost_pico`` that the canaries cost, which are no rows of the run.

    Examples:
        >>> import pandas as pd
        >>> from opencode_tasks import annotate
        >>> frame = pd.DataFrame({"prompt": ["one", "two"]})
        >>> progress = annotate(frame, backend="null").progress
        >>> progress.total, progress.completed, progress.open
        (2, 2, 0)
    """

    total: int
    open: int
    completed: int
    failed: int
    skipped: int
    reused: int
    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cost_pico: int | None
    known_cost_pico: int
    unknown_attempts: int
    unreported_calls: int = 0
    sent_rows: int = 0
    reviewed: int = 0
    canary_cost_pico: int = 0

    @property
    def projected_cost_pico(self) -> int | None:
        """Cost of the whole run if the open rows cost as much as those that ended, in pico-dollars.

        None if too few rows have ended, if no row is open, or if nothing is known about the cost.
        """
        if not self.open or self.sent_rows < MIN_ENDED_ROWS or not self.known_cost_pico:
            return None
        of_rows = self.known_cost_pico - self.canary_cost_pico
        return self.known_cost_pico + of_rows * self.open // self.sent_rows


def progress(connection: Connection, run_id: str) -> Progress:
    """The progress of a run; all zeros if there is no such run."""
    return Progress(**counts_by_run(connection, [run_id])[run_id])


def counts_by_run(connection: Connection, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The fields of ``Progress`` for each run: its own rows, and the usage of its parts as well."""
    rows_query = select(
        rows.c.run_id,
        func.count().label("total"),
        *(count_if(shown_status == status).label(status) for status in ROW_STATUSES),
        count_if(rows.c.reused).label("reused"),
        count_if(rows.c.answered_by.is_not(None)).label("reviewed"),
        count_if(rows.c.status.in_(("completed", "failed")) & (rows.c.attempts > 0)).label("sent_rows"),
    )
    unknown_query = select(attempts.c.run_id, count_if(not_(attempts.c.usage_known)).label("unknown"))

    parts = _parts_of(connection, run_ids)
    with_parts = [*run_ids, *(part for found in parts.values() for part in found)]

    def grouped(
        query: Select[Any], run: ColumnElement[str], ids: Sequence[str]
    ) -> dict[str, Mapping[Any, Any]]:
        found = connection.execute(query.where(run.in_(ids)).group_by(run)).mappings()
        return {line["run_id"]: line for line in found}

    def added(query: Select[Any], run: ColumnElement[str]) -> dict[str, Mapping[Any, Any]]:
        found = grouped(query, run, with_parts)
        return {
            run_id: _sum_of([found[one] for one in (run_id, *parts.get(run_id, ())) if one in found])
            for run_id in run_ids
        }

    by_status = grouped(rows_query, rows.c.run_id, run_ids)
    unknown = added(unknown_query, attempts.c.run_id)
    summed = added(select(usage.c.run_id, *sums()), usage.c.run_id)
    # No run without parts has canaries.
    canary_costs = _canary_costs(connection, list(parts)) if parts else {}
    counts: dict[str, dict[str, Any]] = {}
    for run_id in run_ids:
        unknown_attempts = unknown[run_id].get("unknown", 0)
        found = summed[run_id] or {"steps": 0}
        counts[run_id] = {
            **{
                name: by_status.get(run_id, {}).get(name, 0)
                for name in ("total", *ROW_STATUSES, "reused", "sent_rows", "reviewed")
            },
            **known_sums(found, unknown_attempts),
            "known_cost_pico": found.get("cost_pico", 0),
            "unknown_attempts": unknown_attempts,
            "unreported_calls": found["steps"] - found.get("known_output_tokens", 0),
            "canary_cost_pico": canary_costs.get(run_id, 0),
        }
    return counts


def _canary_costs(connection: Connection, run_ids: Sequence[str]) -> dict[str, int]:
    """The known cost of the canaries of each run that has some."""
    cost = func.coalesce(func.sum(usage.c.cost_pico), 0)
    query = (
        select(runs.c.parent_run_id, cost)
        .join(usage, usage.c.run_id == runs.c.run_id)
        .where(runs.c.parent_run_id.in_(run_ids), runs.c.part == CANARY_PART)
        .group_by(runs.c.parent_run_id)
    )
    return {run_id: int(pico) for run_id, pico in connection.execute(query)}


def _parts_of(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[str]]:
    query = select(runs.c.parent_run_id, runs.c.run_id).where(runs.c.parent_run_id.in_(run_ids))
    found: dict[str, list[str]] = {}
    for line in connection.execute(query):
        found.setdefault(line.parent_run_id, []).append(line.run_id)
    return found


def _sum_of(lines: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    """The numbers of lines, added up by name."""
    names = [name for name in (lines[0] if lines else ()) if name != "run_id"]
    return {name: sum(line[name] for line in lines) for name in names}


def silent_providers(connection: Connection, run_id: str) -> list[str]:
    """The providers that did not report the usage of a model call of a run, in alphabetical order."""
    query = (
        select(usage.c.model_ref).distinct().where(usage.c.run_id == run_id, usage.c.output_tokens.is_(None))
    )
    return sorted({ref.partition("/")[0] for ref in connection.execute(query).scalars()})
