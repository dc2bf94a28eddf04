"""The views of the ledger, for dashboards: what each has, column by column.

Names and meanings are kept from version to version; columns may be added. The reference page is
made from here, and the views are made by the migrations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select
from sqlalchemy.schema import DDL

from opencode_tasks.ledger.spend import by_run, failures, items, spent, unreported


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view and what a line of it is."""

    name: str
    line: str
    query: Select[Any]

    @property
    def columns(self) -> list[str]:
        """The names of its columns, in order."""
        return [column.name for column in self.query.selected_columns]


VIEWS: tuple[View, ...] = (
    View(
        name="cost_items",
        line="a model call; also an attempt that bought nothing, and a row that was not asked",
        query=items(),
    ),
    View(name="cost_by_day", line="a UTC day", query=spent(("day",))),
    View(name="cost_by_model", line="a model", query=spent(("model",))),
    View(name="cost_by_deployment", line="a Prefect deployment", query=spent(("deployment",))),
    View(name="cost_by_run", line="a run", query=by_run()),
    View(name="cost_by_label", line="a value of a label", query=spent(("label",))),
    View(name="failures_by_type", line="a day, model and kind of error", query=failures()),
    View(
        name="unreported_attempts",
        line="an attempt that may have bought more than it told",
        query=unreported(),
    ),
)

MEANINGS: dict[str, str] = {
    "day": "UTC day: of a model call when it ended, of what bought nothing when it was begun. "
    "A date on PostgreSQL, the text `YYYY-MM-DD` on SQLite.",
    "model": "`provider/model` that was asked.",
    "deployment": "Prefect's `flow/deployment`; null for a run by hand.",
    "run": "Id of the run.",
    "label": "Name of a label: a column that the user named with `--label`.",
    "label_value": "Value of the label. A row counts under each of its labels.",
    "origin": "`annotate`, or `import` for a session that was read with `--import-session`.",
    "status": "Of a run: running, waiting, paused, interrupted, completed or failed. "
    "Of an attempt: open, completed or failed.",
    "created_at": "When the run began.",
    "ended_at": "When the run, or the model call, ended; null while it has not.",
    "started_at": "When the attempt was begun.",
    "row_id": "Id of the row in its input.",
    "row_status": "open, completed, failed or skipped.",
    "reused": "Whether the row took over an earlier answer; its tokens and cost are counted there.",
    "attempt": "Number of the attempt at its row, from 1.",
    "attempt_id": "Id of the attempt; null for a row that was not asked.",
    "attempt_status": "open, completed or failed; null for a row that was not asked.",
    "error_type": "How the attempt ended in an error; null where it did not.",
    "session_id": "opencode's session, root or child.",
    "step_id": "opencode's id of the model call; null on a line without one.",
    "agent": "opencode's agent that made the call.",
    "rows": "Rows, each once in its line: those asked, taken over and skipped.",
    "steps": "Model calls.",
    "attempts": "Attempts that ended in this error.",
    "failed_rows": "Rows among them that have failed in the end.",
    "input_tokens": "Input tokens that no cache held.",
    "cache_read_tokens": "Input tokens read from the provider's cache.",
    "cache_write_tokens": "Input tokens written to the provider's cache.",
    "output_tokens": "Output tokens without the reasoning.",
    "reasoning_tokens": "Reasoning tokens.",
    "cost_pico": "Cost in pico-dollars (1e-12 USD), a whole number; null where a part of it is unknown.",
    "known_cost_pico": "The sum of the known parts of the cost, in pico-dollars.",
    "failed_cost_pico": "The part of the cost that went into attempts that did not complete.",
    "known_failed_cost_pico": "The sum of the known parts of that.",
    "cost_usd": "The cost in USD: exact on PostgreSQL, the nearest float on SQLite.",
    "known_cost_usd": "The sum of the known parts, in USD.",
    "failed_cost_usd": "What went into attempts that did not complete, in USD.",
    "cost_source": "`reported` by opencode, else `computed` from prices, else `unpriced`.",
    "cost_reported_pico": "What opencode says that the call cost; null where it knows no price.",
    "cost_computed_pico": "What its tokens cost by `price_source`; null where that knows no price.",
    "price_source": "Whose price that is: genai-prices with its version, as of the day of the call, "
    "or the user's own.",
    "labels": "The labels, a JSON object.",
    "at_most_pico": "The most that the provider may have sold and not told, in pico-dollars; "
    "0 where the model's price is unknown.",
    "at_most_usd": "The same in USD.",
}


def create_views(connection: Connection) -> None:
    """Make all views; a migration that changes what they read must drop them first, in reverse order."""
    for view in VIEWS:
        compiled = view.query.order_by(None).compile(
            dialect=connection.dialect, compile_kwargs={"literal_binds": True}
        )
        # DDL would take a percent sign for a placeholder.
        connection.execute(DDL(f"CREATE VIEW {view.name} AS {compiled}".replace("%", "%%")))
