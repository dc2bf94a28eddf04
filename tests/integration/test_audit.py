"""``opencode-tasks audit``: its findings agree with the provider's own record of requests."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from typing import Any

import pytest
from cluster import Desk

from opencode_tasks.engine.audit import audit
from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Call, Reply


def run_id_of(desk: Desk) -> str:
    [run] = json.loads(desk.run("runs", "--json", "--limit", "1", "--ledger", ledger_of(desk)).stdout)
    return run["run_id"]


def ledger_of(desk: Desk) -> str:
    return str(desk.folder / "ledger.db")


def audited(desk: Desk, code: int = 0) -> dict[str, Any]:
    ran = desk.run("audit", run_id_of(desk), "--json", "--ledger", ledger_of(desk))
    assert ran.code == code, ran.stderr
    return ran.summary


def usd(call: Call) -> float:
    """What the scripted provider charges for a request, by the price of its model."""
    return call.input_tokens * 1e-6 + call.output_tokens * 2e-6


@pytest.mark.slow
@pytest.mark.scripted
def test_the_audit_agrees_with_the_record_of_the_provider(desk: Desk) -> None:
    limited = Reply(status=429, headers={"Retry-After": "1"}, body={"error": {"message": "slow down"}})
    desk.provider.on("limited", limited, Reply())
    desk.provider.on("cut", Reply(text="abcdefgh", chunks=4, cut_after=2, input_tokens=500), Reply())
    desk.provider.on("long", Reply(text="a part", finish_reason="length", output_tokens=40), Reply())
    desk.provider.on("wrong", Reply(status=400, body={"error": {"message": "no such option"}}))
    prompts = ["good 1", "good 2", "good 1", "limited", "cut", "long", "wrong", ""]
    desk.write_csv("in.csv", [{"id": f"r{n}", "prompt": prompt} for n, prompt in enumerate(prompts)])
    ran = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", "--bad-rows", "fail")
    assert ran.code == 1, ran.stderr
    found = audited(desk)
    assert found["faults"] == []
    sent = Counter(desk.provider.prompts())
    assert found["rows"] == {
        "total": 8,
        "completed": 6,
        "failed": 2,
        "skipped": 0,
        "open": 0,
        "reused": 1,
        "never_sent": 2,
    }
    assert (found["sent_rows"], found["sent_once"]) == (len(sent), sum(n == 1 for n in sent.values()))
    assert found["attempts"] == sum(sent.values()) == 9
    assert found["refused"] == {"rate_limit": 1}
    twice = {one["row_id"]: one for one in found["repeated"]}
    assert {row: one["error_type"] for row, one in twice.items()} == {
        "r4": "server_error",
        "r5": "max_output_tokens",
    }
    assert twice["r5"]["cost_usd"] > 0 == twice["r5"]["at_most_usd"]
    assert twice["r4"]["cost_usd"] == 0 < twice["r4"]["at_most_usd"]
    charged = sum(usd(call) for call in desk.provider.calls if call.status == 200)
    assert found["cost_usd"] <= charged + 1e-12
    assert charged < found["at_most_usd"]
    shown = desk.run("audit", run_id_of(desk), "--ledger", ledger_of(desk)).stdout
    assert (
        "sent       6 rows in 9 attempts; 3 by one attempt\nrefused    1 attempt without usage (rate_limit 1)"
        in shown
    )
    assert (
        "  row 'r4' attempt 1 (server_error): the provider failed during the answer; $0.00, at most $0.0"
        in shown
    )
    assert shown.splitlines()[-1].startswith("checks     no contradiction")
    # The clocks of machines differ, and are set: the order of the attempts is known without them.
    with closing(sqlite3.connect(ledger_of(desk))) as ledger, ledger:
        ledger.execute("UPDATE attempts SET started_at = '2026-01-01', ended_at = '2040-01-01'")
        ledger.execute("UPDATE rows SET completed_at = '2025-01-01' WHERE completed_at IS NOT NULL")
    assert audited(desk)["faults"] == []


@pytest.mark.nightly
def test_rows_in_flight_at_a_kill_are_named_before_and_after_the_resume(desk: Desk) -> None:
    desk.provider.on("row", Reply(delay_s=3.0))
    desk.write_csv("in.csv", [{"id": f"r{n}", "prompt": f"row {n}"} for n in range(4)])
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--id-column", "id", "--concurrency", "2")
    process = desk.start(*arguments)
    deadline = time.monotonic() + 120
    while len(desk.provider.calls) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no row was sent"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    before = audited(desk)
    sent = [call.prompt for call in desk.provider.calls]
    open_rows = {f"r{prompt[4:]}" for prompt in sent} - answered(desk)
    assert {one["row_id"] for one in before["repeated"]} >= open_rows
    assert before["in_flight"] == []
    assert desk.run("resume", "--ledger", ledger_of(desk)).code == 0
    after = audited(desk)
    assert after["faults"] == []
    counts = Counter(desk.provider.prompts())
    # The provider may not have seen the request of an attempt that was written before the kill.
    assert {f"r{p[4:]}" for p, n in counts.items() if n > 1} <= {one["row_id"] for one in after["repeated"]}
    assert {one["error_type"] for one in after["repeated"]} == {"crashed"}
    assert sum(usd(call) for call in desk.provider.calls) <= after["at_most_usd"]


def answered(desk: Desk) -> set[str]:
    with closing(sqlite3.connect(ledger_of(desk))) as database:
        return {row for (row,) in database.execute("SELECT row_id FROM rows WHERE status = 'completed'")}


AT_ONE_TIME = "UPDATE attempts SET row_key = 'k', fence = row_id + 1, ended_fence = 2"
LATER = "UPDATE attempts SET row_key = 'k', fence = 2, ended_fence = 2"
CONTRADICTIONS = [
    ("DELETE FROM attempts WHERE row_id = '1'", "row '1' is completed, and no attempt has its answer"),
    ("UPDATE runs SET spent_pico = 5000000", "stores $0.000005 as spent, and its parts add up to $0.00"),
    ("UPDATE runs SET reserved_pico = 7", "stores $0.000000000007 as reserved, and its parts add up"),
    ("DELETE FROM rows WHERE row_id = '2'", "the ledger stores 3 as rows, and its parts add up to 2"),
    (f"{AT_ONE_TIME} WHERE row_id < '2'", "were in flight at the same time"),
    (
        f"{LATER} WHERE row_id = '0'; UPDATE attempts SET row_key = 'k' WHERE row_id = '1'",
        "the second was answered before the first was sent",
    ),
    (
        "UPDATE attempts SET row_id = '1', ended_at = started_at WHERE row_id < '2'",
        "row '1' was answered by 2 attempts",
    ),
]


@pytest.mark.slow
@pytest.mark.scripted
def test_a_contradiction_in_the_ledger_is_a_fault(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": f"row {n}"} for n in range(3)])
    arguments = ("annotate", "in.csv", "-o", "out.csv", "--backend", "null", "--runner", "threads")
    assert desk.run(*arguments, "--ledger", ledger_of(desk)).code == 0
    run_id = run_id_of(desk)
    copy = desk.folder / "copy.db"
    for change, fault in CONTRADICTIONS:
        copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(ledger_of(desk))) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            with target:
                target.executescript(change)
        with Ledger.open(str(copy)) as ledger:
            found = audit(ledger, run_id)
        assert found is not None
        assert any(fault in one for one in found.faults), (change, found.faults)
    shown = desk.run("audit", run_id, "--ledger", str(copy))
    assert shown.code == 1
    assert shown.stdout.splitlines()[-1].startswith("fault      row '")
    missing = desk.run("audit", "no-run", "--ledger", str(copy))
    assert (missing.code, "there is no run no-run in this ledger" in missing.stderr) == (2, True)
