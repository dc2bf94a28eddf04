"""Runs in a ledger and their pages, as ``opencode-tasks view`` serves them, for tests."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from attempts import begin_attempt, finish

from opencode_tasks.domain.records import Answer, AttemptRecord, InnerRetry, RowInput, Session, Step, Usage
from opencode_tasks.domain.work import WorkResult
from opencode_tasks.errors import InvalidRequestError
from opencode_tasks.ledger import Lease, Ledger
from opencode_tasks.view.server import ViewServer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LABELS = ("positive", "negative", "neutral")
CHOICES = {"enum": list(LABELS)}
HOSTILE = (
    '</script><script>document.title="hacked"</script><img src=x onerror=alert(1)>"\'&{{7*7}} '
    "javascript:alert(1) \u202eabc\u202c \u2067x \x00 \u2028"
)
# As a browser sends it, and as a name of a field.
HOSTILE_CHOICE = HOSTILE.replace("\x00", "")
HOSTILE_IDS = (
    *("a/b", "?q=1&x", "#frag", "a b", "<b>\"'", "../..", "%2F%00", "one\ntwo", "\u202eid", "é"),
    "javascript:x",
)


def add_run(
    ledger: Ledger,
    run_id: str,
    rows: Sequence[tuple[str, str]],
    *,
    schema: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    keys_of: str | None = None,
    **parameters: Any,
) -> None:
    """Write a run of rows: pairs of an id and a prompt. Its row keys are those of the run ``keys_of``."""
    ledger.runs.create(
        run_id=run_id,
        parameters={
            "schema": schema,
            "system": "You label reviews.",
            "labels": list(labels or {}),
            **parameters,
        },
        model_ref="fake/echo",
        backend="server",
        opencode_version="1.18.33",
        deployment=None,
        flow_run_id=None,
        input_fingerprint="f",
        row_count=len(rows),
        refresh=False,
        now=NOW,
    )
    keys = keys_of or run_id
    inputs = [
        RowInput(row_id=row, position=i, row_key=f"{keys}-{i}", prompt=prompt, labels=labels or {})
        for i, (row, prompt) in enumerate(rows)
    ]
    ledger.rows.add(run_id, inputs)
    ledger.runs.ready(run_id)


def answer(
    ledger: Ledger,
    run_id: str,
    row_id: str,
    text: str,
    structured: Any = None,
    work: WorkResult | None = None,
) -> None:
    """Complete a row as opencode does, with reasoning, a tool call, a retry and a cost."""
    lease = ledger.queue.claim_row(run_id, row_id, owner="w", now=NOW, lease_s=60)
    assert isinstance(lease, Lease)
    attempt_id = begin_attempt(ledger, lease, run_id, row_id, now=NOW)
    found = _record(attempt_id, text)
    end = Answer(
        text=text,
        structured=structured,
        finish_reason="stop",
        turns=1,
        model_ref="fake/echo",
        attempt=found,
        work=work or WorkResult(),
    )
    assert finish(ledger, lease, attempt_id, end, found, now=NOW + timedelta(seconds=2))


def fail(ledger: Ledger, run_id: str, row_id: str, message: str) -> None:
    """Fail a row."""
    lease = ledger.queue.claim_row(run_id, row_id, owner="w", now=NOW, lease_s=60)
    assert isinstance(lease, Lease)
    attempt_id = begin_attempt(ledger, lease, run_id, row_id, now=NOW)
    error = InvalidRequestError("n", raw_message=message)
    assert finish(ledger, lease, attempt_id, error, AttemptRecord(), now=NOW + timedelta(seconds=2))


def _record(attempt_id: str, text: str) -> AttemptRecord:
    session_id = f"ses_{attempt_id}"
    parts = [
        {"type": "reasoning", "text": f"I think: {text}"},
        {
            "type": "tool",
            "tool": "lookup",
            "state": {"status": "completed", "input": {"word": text}, "output": f"found {text}"},
        },
        {"type": "text", "text": text},
    ]
    step = Step(
        step_id="prt_1",
        session_id=session_id,
        message_id="msg_2",
        model_ref="fake/echo",
        agent="opencode-tasks",
        usage=Usage(input_tokens=1234, output_tokens=5, cost_pico=3 * 10**9),
        cost_source="reported",
        finish_reason="stop",
        ended_at=NOW,
    )
    messages = [
        {"info": {"role": "user"}, "parts": [{"type": "text", "text": "the prompt as it was sent"}]},
        {"info": {"role": "assistant", "id": "msg_2"}, "parts": parts},
    ]
    return AttemptRecord(
        session_id=session_id,
        sessions=[Session(session_id=session_id, parent_id=None, messages=messages, steps=[step])],
        inner_retries=[InnerRetry(session_id=session_id, number=1, message="Overloaded", next_at=NOW)],
        exit_code=0,
    )


def labelled_run(ledger: Ledger, run_id: str = "labelled", *, rows: int = 6, open_rows: int = 0) -> None:
    """A run with one label for each row; the row ``r3`` has failed, the last ``open_rows`` are open."""
    add_run(
        ledger,
        run_id,
        [(f"r{i}", f"Review number {i}: works well") for i in range(rows)],
        schema=CHOICES,
        labels={"team": "search"},
    )
    for i in range(rows - open_rows):
        if i == 3:
            fail(ledger, run_id, f"r{i}", "HTTP 400: no such prompts")
        else:
            answer(ledger, run_id, f"r{i}", LABELS[i % 3], LABELS[i % 3])
    if not open_rows:
        ledger.runs.end(run_id, status="completed", now=NOW + timedelta(hours=1))


def work_run(ledger: Ledger, works: Mapping[str, WorkResult], run_id: str = "work") -> None:
    """A run whose rows have workspaces, with these results."""
    rows = [(row_id, f"Task of {row_id}") for row_id in works]
    add_run(ledger, run_id, rows, has_workspace=True, id_column="id", system_text="You write code.")
    for row_id, work in works.items():
        answer(ledger, run_id, row_id, "done", work=work)
    ledger.runs.end(run_id, status="completed", now=NOW + timedelta(hours=1))


def hostile_run(ledger: Ledger, run_id: str = "hostile") -> None:
    """A run in which ids, prompts, answers, fields and labels try to break the page."""
    fields = {
        HOSTILE_CHOICE: {"type": "string"},
        "label": {"enum": [HOSTILE_CHOICE, "ok"]},
        "score": {"type": "number"},
    }
    add_run(
        ledger,
        run_id,
        [(row, f"{row} {HOSTILE}") for row in HOSTILE_IDS],
        schema={"type": "object", "properties": fields},
        labels={HOSTILE: HOSTILE},
    )
    for row in HOSTILE_IDS[:-2]:
        value = {
            HOSTILE_CHOICE: HOSTILE + "\ud800",
            "label": HOSTILE_CHOICE,
            "score": 0.5,
            "other": [HOSTILE],
        }
        answer(ledger, run_id, row, HOSTILE * 1000, value)
    fail(ledger, run_id, HOSTILE_IDS[-2], HOSTILE)
    ledger.runs.end(run_id, status="completed", now=NOW + timedelta(hours=1))


@contextmanager
def serving(ledger: Ledger, run_id: str, *, by: str = "maria") -> Generator[ViewServer]:
    """Serve a run."""
    server = ViewServer(ledger, run_id, by=by)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


@contextmanager
def served(ledger: Ledger, run_id: str, *, by: str = "maria") -> Generator[str]:
    """Serve a run; yields the address with the token."""
    with serving(ledger, run_id, by=by) as server:
        yield server.address
