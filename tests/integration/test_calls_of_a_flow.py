"""Several ``annotate`` calls of one flow run over the same rows, and flow runs that are started again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from opencode_tasks import annotate
from opencode_tasks.ledger import Ledger

FRAME = pd.DataFrame({"prompt": ["one", "two"], "kind": ["odd", "even"]})

pytestmark = pytest.mark.usefixtures("prefect_server")


class Interrupted(RuntimeError):
    """Failure of a flow or task outside of opencode-tasks."""


def fixed(folder: Path) -> dict[str, Any]:
    return {"backend": "null", "ledger": str(folder / "ledger.db")}


def test_each_call_of_a_flow_run_is_a_run_with_its_own_options(tmp_path: Path) -> None:
    @flow
    def calling() -> list[str]:
        first = annotate(FRAME, **fixed(tmp_path))
        again = annotate(FRAME, **fixed(tmp_path), label=["kind"])
        anew = annotate(FRAME, **fixed(tmp_path), refresh=True)
        assert [*first.frame["reused"], *again.frame["reused"]] == [False, False, True, True]
        assert [*anew.frame["reused"]] == [False, False]
        return [first.run_id, again.run_id, anew.run_id]

    run_ids = calling()
    assert len({*run_ids}) == 3
    with Ledger.open(str(tmp_path / "ledger.db")) as ledger:
        runs = [ledger.runs.get(run_id) for run_id in run_ids]
    assert [run["parameters"]["labels"] for run in runs if run is not None] == [[], ["kind"], []]


@pytest.mark.slow
def test_the_calls_of_a_flow_run_that_is_started_again_continue_their_runs(tmp_path: Path) -> None:
    executions: list[list[str]] = []

    @flow(retries=2)
    def calling() -> None:
        executions.append([])
        for number in range(len(executions)):
            result = annotate(FRAME, **fixed(tmp_path), refresh=bool(number))
            executions[-1].append(result.run_id)
        if len(executions) < 3:
            raise Interrupted

    calling()
    longest = executions[-1]
    assert len({*longest}) == 3
    assert executions == [longest[:1], longest[:2], longest]


@pytest.mark.slow
def test_a_task_that_is_retried_continues_its_run_and_no_other_one(tmp_path: Path) -> None:
    attempts: list[str] = []

    @task(retries=1)
    def label(*, fails: bool) -> str:
        run_id = annotate(FRAME, **fixed(tmp_path), refresh=True).run_id
        attempts.append(run_id)
        if fails and attempts.count(run_id) == 1:
            raise Interrupted
        return run_id

    @flow
    def calling() -> list[str]:
        return [label(fails=False), label(fails=True), label.submit(fails=False).result()]

    first, second, third = calling()
    assert attempts == [first, second, second, third]
    assert len({first, second, third}) == 3


@pytest.mark.timeout(150)
def test_tasks_with_all_places_of_the_task_runner_call_annotate(tmp_path: Path) -> None:
    runner: Any = ThreadPoolTaskRunner(max_workers=1)

    @task
    def label(prompt: str) -> list[str]:
        return [*annotate(pd.DataFrame({"prompt": [prompt]}), **fixed(tmp_path)).frame["response"]]

    @flow(task_runner=runner)
    def calling() -> list[list[str]]:
        return label.map(["one", "two"]).result()

    assert calling() == [["one"], ["two"]]
