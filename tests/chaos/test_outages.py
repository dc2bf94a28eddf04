"""Outages and dying keys on every wire: no row is lost, and no answer is paid for twice."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest
from cluster import Desk
from wire_cases import OVERLOADED, WIRES

from opencode_tasks.testing import Call, Reply, Wire

pytestmark = pytest.mark.chaos
ROWS = 30
OUTAGE_S = 60.0


def arguments(desk: Desk, wire: Wire, rows: int) -> list[str]:
    prompts = [f"row {number:03}" for number in range(rows)]
    desk.write_csv("in.csv", [{"id": prompt, "prompt": prompt} for prompt in prompts])
    given = desk.arguments("in.csv", "-o", "out.csv", "--id-column", "id", "--concurrency", "4")
    config = desk.provider.opencode_config(name="fake", wire=wire)
    (desk.folder / "opencode.json").write_text(json.dumps(config))
    return given


def down(wire: Wire, kind: str) -> Reply:
    if kind == "status":
        return Reply(status=503, body={"error": {"message": "down"}})
    return Reply(text="", stream_error={"type": OVERLOADED.get(wire, "overloaded_error"), "message": "down"})


@pytest.mark.parametrize("rows", [ROWS, 3])
@pytest.mark.parametrize("kind", ["status", "stream"])
@pytest.mark.parametrize("wire", WIRES)
def test_a_minute_of_outage_fails_no_row(desk: Desk, wire: Wire, kind: str, rows: int) -> None:
    began: list[float] = []

    def is_down(_: Call) -> bool:
        began[:] = began or [time.monotonic()]
        return time.monotonic() - began[0] < OUTAGE_S

    desk.provider.on(is_down, down(wire, kind))
    ran = desk.run(*arguments(desk, wire, rows))
    assert ran.code == 0, ran.stderr
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": rows}


@pytest.mark.parametrize("wire", WIRES)
def test_a_key_that_dies_pauses_the_run_and_no_answer_is_paid_for_twice(desk: Desk, wire: Wire) -> None:
    dead: list[bool] = [True]
    answered: Counter[str] = Counter()

    def is_refused(call: Call) -> bool:
        if dead[0] and len(answered) >= ROWS // 3:
            return True
        answered[call.prompt] += 1
        return False

    desk.provider.on(is_refused, Reply(status=401, body={"error": {"message": "the key has been revoked"}}))
    ran = desk.run(*arguments(desk, wire, ROWS))
    assert ran.code == 75, ran.stderr
    dead[0] = False
    ran = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"))
    assert ran.code == 0, ran.stderr
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": ROWS}
    assert set(answered.values()) == {1}
