"""Runs with parts: several processes, interrupted parts, and flows with several runs over one table."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cluster import Desk

from opencode_tasks.domain.flow_call import FlowCall
from opencode_tasks.engine.result import AnnotationResult
from opencode_tasks.engine.review import PersonAnswer, record_reviews, undo_review
from opencode_tasks.engine.run import RunEvent
from opencode_tasks.engine.start_run import start_or_continue
from opencode_tasks.engine.thread_executor import ThreadExecutor
from opencode_tasks.engine.votes import execute_plan
from opencode_tasks.ledger import PREPARING, Ledger
from opencode_tasks.orchestration.block_resolver import resolve_options
from opencode_tasks.plan.make_plan import make_plan
from opencode_tasks.plan.options import make_options
from opencode_tasks.plan.plan import Plan, PlanPart
from opencode_tasks.plan.run_context import RunContext
from opencode_tasks.testing import Reply

FRAME = pd.DataFrame({"prompt": ["one", "two", "three"]})


def plan_of(ledger: Path, binary: Path, **options: Any) -> Plan:
    fixed = {"backend": "null", "ledger": str(ledger), "opencode_bin": str(binary)}
    return make_plan(FRAME, resolve_options(make_options(fixed | options)))


def call(execution: int) -> FlowCall:
    return FlowCall(call_id=uuid.uuid4().hex, flow_run_id="flow", execution=execution)


def execute(plan: Plan, **context: Any) -> AnnotationResult[Any]:
    return execute_plan(plan, FRAME, executor=ThreadExecutor(), context=RunContext(**context))


def test_a_flow_with_and_without_votes_has_two_runs(tmp_path: Path, opencode_binary: Path) -> None:
    plain = execute(plan_of(tmp_path / "l.db", opencode_binary), flow_call=call(1))
    voted_plan = plan_of(tmp_path / "l.db", opencode_binary, votes=2)
    voted = execute(voted_plan, flow_call=call(1))
    assert plain.run_id != voted.run_id
    assert voted.counts["completed"] == 3
    assert voted.votes is not None
    assert (voted.votes.asked, voted.votes.reused) == (6, 3)
    # A flow run that starts again continues its own run.
    assert execute(voted_plan, flow_call=call(2)).run_id == voted.run_id


def test_a_part_that_was_interrupted_while_it_was_written_is_finished(
    tmp_path: Path, opencode_binary: Path
) -> None:
    plan = plan_of(tmp_path / "l.db", opencode_binary, votes=2)
    with Ledger.open(plan.ledger_url) as ledger:
        run_id = start_or_continue(ledger, plan, FRAME, RunContext()).run_id
        part = plan.of_part(
            PlanPart(parent_run_id=run_id, number=1, title="vote 1 of 2"), [0, 1, 2], number=0, max_cost=None
        )
        start_or_continue(ledger, part, FRAME, RunContext())
        database = ledger.runs.database
        database.write(
            lambda connection: connection.exec_driver_sql(
                f"update runs set status = '{PREPARING}' where run_id = '{part.part_id}'"
            )
        )
        database.write(
            lambda connection: connection.exec_driver_sql(
                f"delete from rows where run_id = '{part.part_id}' and position > 0"
            )
        )
    result = execute(plan, resumed_run_id=run_id)
    assert result.counts["completed"] == 3
    with Ledger.open(plan.ledger_url) as ledger:
        assert [(one.part, one.status) for one in ledger.votes.parts(run_id)] == [
            (1, "completed"),
            (2, "completed"),
        ]


def test_a_row_whose_review_is_undone_during_the_run_is_voted_on(
    tmp_path: Path, opencode_binary: Path
) -> None:
    plan = plan_of(tmp_path / "l.db", opencode_binary, votes=3)
    parts: list[str] = []

    def review(event: RunEvent) -> None:
        if event.sizes is None or event.part is None or event.part in parts:
            return
        parts.append(event.part)
        with Ledger.open(plan.ledger_url) as ledger:
            if len(parts) == 1:
                answers = [PersonAnswer(row_id=one, answer="other", answered_by="ann") for one in "12"]
                assert not record_reviews(ledger, event.run_id, answers)
            else:
                assert undo_review(ledger, event.run_id, "1")

    result = execute_plan(plan, FRAME, executor=ThreadExecutor(), on_event=review)
    assert result.counts["completed"] == 3
    assert result.frame["response"].tolist() == ["one", "two", "other"]
    assert result.frame["answered_by"].isna().tolist() == [True, True, False]
    assert result.frame["agreement"].tolist()[:2] == [1.0, 1.0]


@pytest.mark.slow
@pytest.mark.scripted
def test_two_processes_share_the_votes_of_a_run(desk: Desk) -> None:
    desk.provider.on("row", Reply(text="yes", delay_s=0.4))
    desk.write_csv("in.csv", [{"prompt": f"row {n}"} for n in range(8)])
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--votes", "2", "--concurrency", "1")
    with desk.start(*arguments) as process:
        deadline = time.monotonic() + 120
        while not desk.provider.calls:
            assert time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        other = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"), "--json")
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, other.code) == (0, 0), errors + other.stderr
    assert Counter(desk.provider.prompts()) == {f"row {n}": 2 for n in range(8)}
    assert (other.summary["rows"]["completed"], other.summary["votes"]["asked"]) == (8, 16)
    assert other.summary["votes"]["saved"] == 0
