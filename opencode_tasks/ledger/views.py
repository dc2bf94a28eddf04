"""Views of the ledger for dashboards and their columns.

Names and meanings are stable from version to version; columns may be added. The reference page is
generated from this module. ``migrate`` drops and creates the views outside the revisions, also in
ledgers whose tables are current: increase ``migrate.VIEWS_VERSION`` when a view changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Dialect, Select, bindparam, text
from sqlalchemy.schema import DDL

from opencode_tasks.ledger.quality_sums import canary_by_run, quality_by_model, quality_by_run
from opencode_tasks.ledger.spend import by_run, failures, items, spent, unreported

DROPPED: tuple[str, ...] = ()
"""Names of views of earlier versions, so that they are dropped too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view; ``line`` says what one line of it is."""

    name: str
    line: str
    query: Select[Any]

    @property
    def columns(self) -> list[str]:
        """The names of its columns, in order."""
        return [column.name for column in self.query.selected_columns]

    def sql(self, dialect: Dialect) -> str:
        """Its query in the SQL of a dialect."""
        query = self.query.order_by(None)
        return str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


VIEWS: tuple[View, ...] = (
    View(
        name="cost_items",
        line="a model call, an attempt without usage, or a row without an attempt",
        query=items(),
    ),
    View(name="cost_by_day", line="a UTC day", query=spent(("day",))),
    View(name="cost_by_model", line="a model", query=spent(("model",))),
    View(name="cost_by_deployment", line="a Prefect deployment", query=spent(("deployment",))),
    View(name="cost_by_run", line="a run", query=by_run()),
    View(name="cost_by_label", line="a value of a label", query=spent(("label",))),
    View(name="failures_by_type", line="a day, model and error type", query=failures()),
    View(name="quality_by_run", line="a run and a field with gold values", query=quality_by_run()),
    View(
        name="quality_by_model",
        line="a model and a field with gold values, each answer once, however many runs reuse it",
        query=quality_by_model(),
    ),
    View(name="canary_by_run", line="a run with canaries", query=canary_by_run()),
    View(
        name="unreported_attempts",
        line="an attempt that may have cost more than was reported",
        query=unreported(),
    ),
)

MEANINGS: dict[str, str] = {
    "day": "UTC day on which a model call ended; for a line without a call, on which the attempt started. "
    "A date on PostgreSQL, the text `YYYY-MM-DD` on SQLite.",
    "model": "Model of the call as `provider/model`.",
    "deployment": "Prefect's `flow/deployment`; null for a run without a deployment.",
    "run": "Id of the run.",
    "label": "Name of a label: a column that the user named with `--label`.",
    "label_value": "Value of the label. A row counts under each of its labels.",
    "origin": "`annotate`, or `import` for a session that was read with `--import-session`.",
    "status": "Of a run: preparing, running, waiting, paused, interrupted, completed or failed. "
    "Of an attempt: open, completed or failed.",
    "created_at": "Time at which the run began.",
    "ended_at": "Time at which the run, or the model call, ended; null before.",
    "started_at": "Time at which the attempt started.",
    "row_id": "Id of the row in its input.",
    "row_status": "open, completed, failed or skipped.",
    "reused": "Whether the row reuses an earlier answer; its tokens and cost count at that answer only.",
    "attempt": "Number of the attempt at its row, from 1.",
    "attempt_id": "Id of the attempt; null for a row without an attempt.",
    "attempt_status": "open, completed or failed; null for a row without an attempt.",
    "error_type": "Type of the error that ended the attempt; null without one.",
    "session_id": "opencode's session, root or child.",
    "step_id": "opencode's id of the model call; null on a line without one.",
    "agent": "opencode's agent that made the call.",
    "rows": "Number of distinct rows, reused and skipped ones included. A row counts in each of its runs.",
    "steps": "Number of model calls.",
    "attempts": "Number of attempts that ended with this error.",
    "failed_rows": "Number of these rows that failed in the end.",
    "input_tokens": "Uncached input tokens.",
    "cache_read_tokens": "Input tokens read from the provider's cache.",
    "cache_write_tokens": "Input tokens written to the provider's cache.",
    "output_tokens": "Output tokens without reasoning.",
    "reasoning_tokens": "Reasoning tokens.",
    "cost_pico": "Cost in pico-dollars (1e-12 USD), an integer; null if a part of it is unknown.",
    "known_cost_pico": "Sum of the known parts of the cost, in pico-dollars.",
    "failed_cost_pico": "Part of the cost that belongs to attempts that did not complete.",
    "known_failed_cost_pico": "Sum of the known parts of that cost.",
    "cost_usd": "Cost in USD: exact on PostgreSQL, the nearest float on SQLite.",
    "known_cost_usd": "Sum of the known parts, in USD.",
    "failed_cost_usd": "Cost of attempts that did not complete, in USD.",
    "cost_source": "`reported` by opencode, `computed` from prices, or `unpriced`: the price or the usage "
    "is unknown.",
    "cost_reported_pico": "Cost of the call by opencode's report; null if opencode knows no price.",
    "cost_computed_pico": "Cost of its tokens by the prices of `price_source`; null if these have no price.",
    "price_source": "Source of the prices: genai-prices with its version, as of the day of the call, "
    "the user's own, or opencode's.",
    "field": "Field of the answer; `response` for answers without fields.",
    "answered_rows": "Number of rows with a gold value and an answer.",
    "unanswered_rows": "Number of rows with a gold value and without an answer; those that a person answered "
    "and the run did not send are left out.",
    "correct_rows": "Number of answers that equal the gold value.",
    "accuracy": "Share of correct answers among the answered rows; null without one.",
    "canary": "Whether the row is a canary of the run. Canaries are in no number of rows.",
    "series": "Digest that is equal for the runs whose canaries can be compared.",
    "measured_at": "Time at which the last canary of the run had ended.",
    "changed_rows": "Number of canaries whose answer differs from that of the last run without a drift.",
    "compared_rows": "Number of canaries with an answer in both runs.",
    "input_tokens_per_row": "Mean of the input tokens of the completed rows, those of the cache included.",
    "output_tokens_per_row": "Mean of the output tokens of the completed rows, reasoning included.",
    "cost_usd_per_row": "Mean cost of the completed rows in USD.",
    "has_drift": "Whether a measure was outside its usual range.",
    "labels": "Labels of the row as a JSON object.",
    "at_most_pico": "Upper bound of the unreported cost, in pico-dollars; 0 if the price of the model is "
    "unknown.",
    "at_most_usd": "The same in USD.",
}


_READERS = text(
    "select distinct table_name, grantee from information_schema.role_table_grants "
    "where table_schema = current_schema() and privilege_type = 'SELECT' and grantee <> grantor "
    "and table_name in :views"
).bindparams(bindparam("views", expanding=True))


def readers_of_views(connection: Connection) -> Sequence[tuple[str, str]]:
    """Pairs of a view and a role that may read it. SQLite has no roles."""
    if connection.dialect.name != "postgresql":
        return []
    found = connection.execute(_READERS, {"views": [view.name for view in VIEWS]})
    return [(row.table_name, row.grantee) for row in found]


def drop_views(connection: Connection) -> None:
    """Drop all views of this and of earlier versions."""
    for name in (*(view.name for view in reversed(VIEWS)), *DROPPED):
        connection.execute(DDL(f"DROP VIEW IF EXISTS {name}"))


def create_views(connection: Connection, readers: Sequence[tuple[str, str]] = ()) -> None:
    """Create all views, and grant roles the right to read them (pairs of ``readers_of_views``)."""
    for view in VIEWS:
        # DDL reads a percent sign as the start of a placeholder.
        sql = view.sql(connection.dialect).replace("%", "%%")
        connection.execute(DDL(f"CREATE VIEW {view.name} AS {sql}"))
    # The preparer of psycopg doubles percent signs, as DDL needs them.
    quote = connection.dialect.identifier_preparer.quote_identifier
    for view, role in readers:
        grantee = role if role == "PUBLIC" else quote(role)
        connection.execute(DDL(f"GRANT SELECT ON {view} TO {grantee}"))
