"""``opencode-tasks gates`` and the check of ``doctor``, after a real refusal."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from cluster import Desk

from opencode_tasks.cli.gates import state_text
from opencode_tasks.ledger.gate_list import ListedGate
from opencode_tasks.testing import Reply

REFUSED = {"error": {"message": "Your key has expired.", "type": "invalid_key"}}


@pytest.mark.parametrize(
    ("waiting", "state"), [(0, "closed, until a run tests it"), (2, "closed, until a person acts")]
)
def test_a_gate_that_holds_no_row_needs_no_person(waiting: int, state: str) -> None:
    gate = ListedGate(
        gate_id="fake/echo#1",
        model_ref="fake/echo",
        state="closed",
        error_type="authentication_failed",
        error_message=None,
        since=None,
        until=None,
        max_rows=None,
        waiting_rows=waiting,
    )
    assert (gate.needs_person, state_text(gate, datetime.now(UTC))) == (waiting > 0, state)


@pytest.mark.slow
@pytest.mark.scripted
def test_a_person_sees_and_opens_a_closed_gate(desk: Desk) -> None:
    ledger = str(desk.folder / "ledger.db")
    desk.provider.on("", Reply(status=401, body=REFUSED), Reply(status=401, body=REFUSED), Reply())
    desk.write_csv("in.csv", [{"id": str(n), "prompt": f"row {n}"} for n in range(3)])
    paused = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", "--concurrency", "1", "--no-wait")
    assert paused.code == 75, paused.stderr
    [gate] = json.loads(desk.run("gates", "--json", "--ledger", ledger).stdout)
    name = gate["gate_id"]
    assert name.startswith("fake/echo#")
    assert (gate["state"], gate["error_type"], gate["until"]) == ("closed", "authentication_failed", None)
    assert gate["error_message"].endswith("Your key has expired.")
    assert gate["waiting_rows"] == 3
    listed = desk.run("gates", "list", "--ledger", ledger).stdout
    assert f"{name}  closed since 20" in listed
    assert "until a person acts; 3 rows wait\n  authentication_failed: " in listed
    assert "Your key has expired.\n  fix: " in listed
    findings = desk.run(
        "doctor",
        "--json",
        env={"OPENCODE_TASKS_LEDGER": ledger, "OPENCODE_TASKS_OPENCODE_BIN": str(desk.binary)},
    ).summary
    assert [one["gate"] for one in findings["gates"]["closed"]] == [name]
    assert "(authentication_failed: " in findings["gates"]["detail"]
    assert (findings["gates"]["ok"], findings["gates"]["warning"]) == (True, True)
    seen = desk.run(
        "doctor", env={"OPENCODE_TASKS_LEDGER": ledger, "OPENCODE_TASKS_OPENCODE_BIN": str(desk.binary)}
    )
    assert f"WARN  gates        {name} closed since" in seen.stdout
    assert "FAIL" not in seen.stdout
    assert seen.code == 0
    opened = [desk.run("gates", "open", name, "--ledger", ledger) for _ in range(2)]
    assert [one.stdout for one in opened] == [f"{name} is open\n", f"{name} is open already\n"]
    assert desk.run("gates", "--ledger", ledger).stdout == "no gate is closed or limited\n"
    for arguments, fault in (
        (("open", "fake/other#0"), "GATE: there is no gate 'fake/other#0' in this ledger"),
        (("open",), "GATE: name the gate to open"),
    ):
        ran = desk.run("gates", *arguments, "--ledger", ledger)
        assert (ran.code, fault in ran.stderr) == (2, True), ran.stderr
    assert desk.run("resume", "--ledger", ledger).code == 0
    assert {row["status"] for row in desk.read_csv("out.csv")} == {"completed"}
