"""Tables of the ledger.

Money is an integer number of pico-dollars, times are aware UTC, and NULL means unknown. A change
here needs a revision in ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    case,
    false,
    func,
    true,
)
from sqlalchemy.types import TypeEngine

from opencode_tasks.domain.columns import STORED, Dtype
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.column_types import AnyText, UtcTime

metadata: Final = MetaData()

# Status of a row that is kept from being sent for now. Readers of the ledger get "open".
HELD: Final = "held"
SENT_COLUMNS: Final = ("prompt", "system", "workspace", "files")
"""Columns of ``rows`` with what a row is sent with."""
# The number of the part of a run that sends its canaries. Votes count from 1.
CANARY_PART: Final = 0


def _json(name: str) -> Column[Any]:
    return Column(name, JSON(none_as_null=True))


def _counter(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False, server_default="0")


_SQL_TYPES: dict[Dtype, TypeEngine[Any]] = {
    "string": AnyText(),
    "Int64": BigInteger(),
    "float64": Float(),
    "boolean": Boolean(),
    "datetime64[us, UTC]": UtcTime(),
    "object": JSON(none_as_null=True),
}


def _outcome_columns() -> list[Column[Any]]:
    """The columns of ``domain.columns``; money is stored in pico-dollars."""
    columns: list[Column[Any]] = []
    for column in STORED:
        name, default = column.ledger_name, _default(column.initial)
        kind = BigInteger() if name.endswith("_pico") else _SQL_TYPES[column.dtype]
        columns.append(Column(name, kind, nullable=default is None, server_default=default))
    return columns


def _default(initial: object) -> Any:
    if isinstance(initial, bool):
        return true() if initial else false()
    return None if initial is None else str(initial)


# Facts about the ledger itself, such as the version of its views.
ledger_info: Final = Table(
    "ledger_info",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

runs: Final = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("created_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    Column("status", Text, nullable=False),
    _json("parameters"),
    Column("model_ref", Text),
    Column("backend", Text),
    Column("opencode_version", Text),
    Column("deployment", Text),
    Column("input_fingerprint", Text),
    Column("row_count", Integer),
    Column("refresh", Boolean, nullable=False),
    Column("waits_until", UtcTime),
    Column("pause_reason", AnyText),
    # When a person resumed the run last.
    Column("resumed_at", UtcTime),
    # NULL means no budget. The module ``budgets`` explains the counters.
    Column("max_cost_pico", BigInteger),
    _counter("spent_pico"),
    _counter("reserved_pico"),
    Column("refused_pico", BigInteger),
    # "annotate", or "import" for a session that opencode ran outside this library.
    Column("origin", Text, nullable=False, server_default="annotate"),
    # When texts were removed, by a purge or by a setting at the end of the run.
    Column("purged_at", UtcTime),
    # Runs over one incremental input share a series; NULL for a run over a whole input.
    Column("series", Text),
    # Number of votes on each row; NULL for a run whose rows are sent once. Such a run sends nothing: each of
    # its votes is a run with this one as its parent, and ``part`` is the number of the vote, from 1. The
    # canaries of any run are its part 0.
    Column("votes", Integer),
    Column("parent_run_id", Text),
    Column("part", Integer),
    Index("runs_parent", "parent_run_id", "part"),
    Index("runs_created_at", "created_at"),
    Index("runs_series", "series"),
)

# Flow runs that work on a run, in the order in which they began.
flow_runs: Final = Table(
    "flow_runs",
    metadata,
    Column("flow_run_id", Text, primary_key=True),
    Column("run_id", Text, primary_key=True),
    Column("position", Integer, nullable=False),
    Index("flow_runs_run", "run_id", "position"),
)

# The processes that work on a run. ``stopped_at`` asks the batches of a driver to end their rows.
drivers: Final = Table(
    "drivers",
    metadata,
    Column("driver_id", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("heartbeat_at", UtcTime, nullable=False),
    Column("stopped_at", UtcTime),
    Column("ended_at", UtcTime),
    Index("drivers_run", "run_id"),
)

rows: Final = Table(
    "rows",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("row_id", AnyText, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("row_key", Text, nullable=False),
    Column("prompt", AnyText),
    Column("system", AnyText),
    # The source of the row's workspace, a ``domain.work.WorkspaceSource``. NULL without one.
    _json("workspace"),
    # The attached files of the row, a list of ``domain.attached_file.AttachedFile``. NULL without any.
    _json("files"),
    _json("labels"),
    *_outcome_columns(),
    Column("source_run_id", Text),
    Column("source_row_id", AnyText),
    Column("started_at", UtcTime),
    Column("completed_at", UtcTime),
    Index("rows_run_position", "run_id", "position"),
    # Finds the next row to send, however many rows before it have ended.
    Index("rows_run_status_position", "run_id", "status", "position"),
    # Ends with the run, or SQLite searches all open rows of a run for a key.
    Index("rows_key_status", "row_key", "status", "run_id"),
)

attempts: Final = Table(
    "attempts",
    metadata,
    Column("attempt_id", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("row_id", AnyText, nullable=False),
    Column("row_key", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    Column("status", Text, nullable=False),
    Column("error_type", Text),
    Column("error_message", AnyText),
    Column("exit_code", Integer),
    Column("reset_time", UtcTime),
    Column("retry_after_s", Float()),
    Column("session_id", Text),
    Column("node_id", Text),
    Column("host", Text),
    Column("backend", Text),
    Column("data_dir", Text),
    Column("usage_known", Boolean, nullable=False),
    Column("gate_id", Text),
    # The module ``budgets`` explains both counters.
    _counter("reserved_pico"),
    _counter("spent_pico"),
    # Upper bound for the cost of one more call of an agent with tools; 0 without tools.
    _counter("max_call_pico"),
    # True if it met an outage of the provider: it does not count against ``max_attempts``. Else NULL.
    Column("is_outage", Boolean),
    # Fence of the key when the end was written: attempts with a higher one began later. NULL if not known.
    Column("ended_fence", Integer),
    # Requests that left its sandbox for the provider, and those that were refused there. NULL without one.
    Column("relay_requests", BigInteger),
    Column("relay_answered", BigInteger),
    Column("relay_refused", BigInteger),
    Column("relay_bytes_sent", BigInteger),
    Column("relay_bytes_received", BigInteger),
    # Number of the attempt at the row whose session it continues. NULL for a new session.
    Column("continues", Integer),
    # Why it began a new session although an earlier attempt had finished steps. NULL if it did not.
    Column("begins_anew", Text),
    Index("attempts_run_row", "run_id", "row_id"),
    Index("attempts_key_ended", "row_key", "ended_at"),
)
# Attempts in flight, and those that dead processes left without an end.
Index(
    "attempts_unended",
    attempts.c.host,
    postgresql_where=attempts.c.ended_at.is_(None),
    sqlite_where=attempts.c.ended_at.is_(None),
)

inner_retries: Final = Table(
    "inner_retries",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("attempt_id", Text, primary_key=True),
    Column("message", AnyText),
    Column("next_at", UtcTime),
    Index("inner_retries_attempt", "attempt_id"),
)

sessions: Final = Table(
    "sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("parent_id", Text),
    Column("attempt_id", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("row_id", AnyText, nullable=False),
    Column("messages", LargeBinary),
    Column("turns", Integer),
    Index("sessions_run_row", "run_id", "row_id"),
    Index("sessions_attempt", "attempt_id"),
)

usage: Final = Table(
    "usage",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("step_id", Text, primary_key=True),
    Column("attempt_id", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("row_id", AnyText, nullable=False),
    Column("row_key", Text, nullable=False),
    Column("message_id", Text),
    Column("model_ref", Text),
    Column("agent", Text),
    *(Column(name, BigInteger) for name in TOKEN_COLUMNS),
    Column("cost_pico", BigInteger),
    Column("cost_source", Text, nullable=False),
    Column("cost_reported_pico", BigInteger),
    Column("cost_computed_pico", BigInteger),
    Column("price_source", Text),
    Column("finish_reason", Text),
    Column("ended_at", UtcTime),
    Index("usage_run_row", "run_id", "row_id"),
)

# Whether a run is the part that sends the canaries of another.
is_canary: Final = func.coalesce(runs.c.part, CANARY_PART + 1) == CANARY_PART

# The status of a row for readers.
shown_status: Final = case((rows.c.status == HELD, "open"), else_=rows.c.status)

# Known correct values of answers. ``is_correct`` is NULL while the row has no answer.
gold_values: Final = Table(
    "gold_values",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("row_id", AnyText, primary_key=True),
    Column("field", Text, primary_key=True),
    _json("value"),
    Column("is_correct", Boolean),
    # Set if the value is the answer of a person who reviewed the row.
    Column("reviewed_at", UtcTime),
)

# Answers of persons, all that were ever given. That of a row counts if ``rows.reviewed_at`` is its time.
reviews: Final = Table(
    "answer_reviews",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("row_id", AnyText, primary_key=True),
    Column("reviewed_at", UtcTime, primary_key=True),
    Column("row_key", Text, nullable=False),
    # The answer as a JSON value, and as the text of ``rows.response``.
    _json("answer"),
    Column("response", AnyText),
    Column("answered_by", AnyText, nullable=False),
    Column("note", AnyText),
    # Whether the row was drawn at random for the review; NULL if that is not known.
    Column("is_random", Boolean),
    # The outcome before the first review.
    Column("previous_status", Text, nullable=False),
    Column("previous_response", AnyText),
    _json("previous_structured"),
    Column("previous_error_type", Text),
    Column("previous_error_message", AnyText),
    Column("previous_answered_by", AnyText),
    Column("previous_reviewed_at", UtcTime),
    # NULL for a review that counts, or that a newer one replaced.
    Column("undone_at", UtcTime),
)

# The update of one row; its values are added by ``values``.
row_update: Final = rows.update().where(
    rows.c.run_id == bindparam("of_run"), rows.c.row_id == bindparam("of_row")
)

# Results of the canaries of a run, by the id of the part that sent them. ``series`` is equal for the runs
# whose canaries can be compared, and ``report`` is ``drift.CanaryReport`` as JSON.
canaries: Final = Table(
    "canaries",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("series", Text, nullable=False),
    Column("measured_at", UtcTime, nullable=False),
    # Answers that differ from those of the last run without a drift, and those that could be compared.
    Column("changed_rows", Integer, nullable=False),
    Column("compared_rows", Integer, nullable=False),
    Column("has_drift", Boolean, nullable=False),
    _json("report"),
    Index("canaries_series", "series", "measured_at"),
)

# One lease for each row_key across all runs; ``owner`` is NULL after a release. Leases are never
# deleted, so that ``fence`` only increases.
leases: Final = Table(
    "leases",
    metadata,
    Column("row_key", Text, primary_key=True),
    Column("owner", Text),
    Column("fence", Integer, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("heartbeat_at", UtcTime, nullable=False),
    Index("leases_owner", "owner"),
)

# Completed rows of a series whose ids were purged, so that they are not sent again.
purged_rows: Final = Table(
    "purged_rows",
    metadata,
    Column("series", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
)

# Whether rows may be sent to a provider and model with a credential. A missing gate is open.
gates: Final = Table(
    "gates",
    metadata,
    Column("gate_id", Text, primary_key=True),
    Column("model_ref", Text, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("error_type", Text),
    Column("error_message", AnyText),
    # NULL in a closed gate: it opens only after a person acts.
    Column("reset_time", UtcTime),
    Column("changed_at", UtcTime, nullable=False),
    # Consecutive server errors and timeouts, and consecutive closures.
    Column("failures", Integer, nullable=False),
    Column("closures", Integer, nullable=False),
    # The one row that is sent through a half-open gate.
    Column("probe_owner", Text),
    Column("probe_until", UtcTime),
    # The row that was refused first, until another row shows whether only that row is refused.
    Column("suspect_run_id", Text),
    Column("suspect_row_id", AnyText),
    Column("suspect_since", UtcTime),
    # Failures of an unavailable provider since the last answer: the time of the first one, and the row if
    # it is one row alone.
    Column("failing_since", UtcTime),
    Column("failing_run_id", Text),
    Column("failing_row_id", AnyText),
)

# How many rows may be in flight at a gate. ``state`` holds the fields of
# ``domain.concurrency.AdaptiveLimit``; ``requests`` and ``tokens`` are the levels of the buckets of
# ``domain.rate_limits``, NULL before their first use.
concurrency_limits: Final = Table(
    "concurrency_limits",
    metadata,
    Column("gate_id", Text, primary_key=True),
    _json("state"),
    Column("requests", Float()),
    Column("tokens", Float()),
    Column("filled_at", UtcTime),
)

# The slots of each worker at a gate, valid until the worker's next request or ``expires_at``.
concurrency_shares: Final = Table(
    "concurrency_shares",
    metadata,
    Column("gate_id", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("slots", Integer, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("wants", Integer, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
)
