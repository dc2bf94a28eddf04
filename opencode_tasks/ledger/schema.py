"""The tables of the ledger (design, section 5).

Money is a whole number of pico-dollars, times are aware UTC, and NULL means unknown. A change here
needs a migration in ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

from typing import Any

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
)

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.ledger.types import UtcTime, Words

metadata = MetaData()


def _json(name: str) -> Column[Any]:
    return Column(name, JSON(none_as_null=True))


def _tokens() -> list[Column[Any]]:
    return [Column(name, BigInteger) for name in TOKEN_COLUMNS]


def _counter(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False, server_default="0")


runs = Table(
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
    _json("flow_run_ids"),
    Column("input_fingerprint", Text),
    Column("row_count", Integer),
    Column("refresh", Boolean, nullable=False),
    Column("waits_until", UtcTime),
    Column("pause_reason", Words),
    # NULL is no budget; see ``budgets`` for what the others count.
    Column("max_cost_pico", BigInteger),
    _counter("spent_pico"),
    _counter("reserved_pico"),
    Column("refused_pico", BigInteger),
    # "annotate", or "import" for a session that was not of ours.
    Column("origin", Text, nullable=False, server_default="annotate"),
    # When texts were removed by ``purge``, or at the run's end by a setting.
    Column("purged_at", UtcTime),
    # Runs over one growing input share it; NULL for a run over all of its input.
    Column("series", Text),
    Index("runs_created_at", "created_at"),
    Index("runs_series", "series"),
)

rows = Table(
    "rows",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("row_id", Words, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("row_key", Text, nullable=False),
    Column("prompt", Words),
    _json("labels"),
    Column("status", Text, nullable=False, server_default="open"),
    Column("response", Words),
    _json("structured"),
    Column("error_type", Text),
    Column("error_message", Words),
    Column("waits_until", UtcTime),
    Column("finish_reason", Text),
    Column("session_id", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("turns", Integer),
    Column("model_ref", Text),
    *_tokens(),
    Column("cost_pico", BigInteger),
    Column("cost_source", Text),
    Column("reused", Boolean, nullable=False),
    Column("source_run_id", Text),
    Column("source_row_id", Words),
    Column("started_at", UtcTime),
    Column("completed_at", UtcTime),
    Column("duration_s", Float()),
    Index("rows_run_position", "run_id", "position"),
    # The next row to send is found by it, however many have ended before it.
    Index("rows_run_status_position", "run_id", "status", "position"),
    # With the run at its end, or SQLite looks through all open rows of a run for a key.
    Index("rows_key_status", "row_key", "status", "run_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("row_id", Words, nullable=False),
    Column("row_key", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    Column("status", Text, nullable=False),
    Column("error_type", Text),
    Column("error_message", Words),
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
    _counter("reserved_pico"),
    _counter("settled_pico"),
    # The most that a further call of an agent with tools may cost; 0 without tools.
    _counter("call_most_pico"),
    Index("attempts_run_row", "run_id", "row_id"),
    Index("attempts_key_ended", "row_key", "ended_at"),
)
# Those in flight, and what dead processes left.
Index(
    "attempts_unended",
    attempts.c.host,
    postgresql_where=attempts.c.ended_at.is_(None),
    sqlite_where=attempts.c.ended_at.is_(None),
)

inner_retries = Table(
    "inner_retries",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("attempt_id", Text, primary_key=True),
    Column("message", Words),
    Column("next_at", UtcTime),
    Index("inner_retries_attempt", "attempt_id"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("parent_id", Text),
    Column("attempt_id", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("row_id", Words, nullable=False),
    Column("messages", LargeBinary),
    Column("turns", Integer),
    Index("sessions_run_row", "run_id", "row_id"),
    Index("sessions_attempt", "attempt_id"),
)

usage = Table(
    "usage",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("step_id", Text, primary_key=True),
    Column("attempt_id", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("row_id", Words, nullable=False),
    Column("row_key", Text, nullable=False),
    Column("message_id", Text),
    Column("model_ref", Text),
    Column("agent", Text),
    *_tokens(),
    Column("cost_pico", BigInteger),
    Column("cost_source", Text, nullable=False),
    Column("cost_reported_pico", BigInteger),
    Column("cost_computed_pico", BigInteger),
    Column("price_source", Text),
    Column("finish_reason", Text),
    Column("ended_at", UtcTime),
    Index("usage_run_row", "run_id", "row_id"),
)

# One lease per row_key across all runs; ``owner`` NULL means given back. Rows stay, so that
# ``fence`` only ever grows.
leases = Table(
    "leases",
    metadata,
    Column("row_key", Text, primary_key=True),
    Column("owner", Text),
    Column("fence", Integer, nullable=False),
    Column("until", UtcTime, nullable=False),
    Column("heartbeat", UtcTime, nullable=False),
    Index("leases_owner", "owner"),
)

# Which flow runs work on which run; a flow run that is started again finds its runs by it.
flow_runs = Table(
    "flow_runs",
    metadata,
    Column("flow_run_id", Text, primary_key=True),
    Column("run_id", Text, primary_key=True),
)

# The rows of a series that have an answer and whose ids were purged: what is not new is not bought.
answered = Table(
    "answered",
    metadata,
    Column("series", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
)

# A provider, model and credential: whether requests may reach it. No line means open.
gates = Table(
    "gates",
    metadata,
    Column("gate_id", Text, primary_key=True),
    Column("model_ref", Text, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("error_type", Text),
    Column("error_message", Words),
    # NULL in a closed gate: only a person can help.
    Column("reset_time", UtcTime),
    Column("changed_at", UtcTime, nullable=False),
    # Server errors and time-outs in a row, and how often the gate was closed in a row.
    Column("failures", Integer, nullable=False),
    Column("closures", Integer, nullable=False),
    # The one row that is tried at a gate whose time has come.
    Column("probe_owner", Text),
    Column("probe_until", UtcTime),
    # The row that was refused first, while no other row has told whether it is the row's own fault.
    Column("suspect_run_id", Text),
    Column("suspect_row_id", Words),
    Column("suspect_since", UtcTime),
)

# How many rows may be in flight at a gate (the fields of ``pace.Pace``), and how full the buckets of
# requests and tokens per minute are (see ``rates``; NULL where they were never used).
paces = Table(
    "paces",
    metadata,
    Column("gate_id", Text, primary_key=True),
    Column("limit", Float(), nullable=False),
    Column("used_at", UtcTime, nullable=False),
    Column("grown_at", UtcTime, nullable=False),
    Column("ceiling", Integer),
    Column("step", Integer, nullable=False),
    Column("gap_s", Float(), nullable=False),
    Column("try_at", UtcTime),
    Column("tried_at", UtcTime),
    Column("answered", Integer, nullable=False),
    Column("cut_at", UtcTime),
    Column("cut_from", Integer, nullable=False),
    Column("cut_floor", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("row_s", Float(), nullable=False),
    Column("requests", Float()),
    Column("tokens", Float()),
    Column("filled_at", UtcTime),
)

# Each worker at a gate: its slots, which are its own until it comes by again or ``until`` has passed.
pace_shares = Table(
    "pace_shares",
    metadata,
    Column("gate_id", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("share", Integer, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("wants", Integer, nullable=False),
    Column("until", UtcTime, nullable=False),
)
