"""Flow runs that a schedule starts, with a process worker and a PostgreSQL ledger."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cluster import Desk
from deployed import ROOT, history, parameters_of, running, state_of, wait_for, worked
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort

from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Reply

ROWS = 10
EVERY_S = 20
LIMIT_S = 75
FLOW_STATES = ("Running", "AwaitingRetry", "Completed", "Failed", "Crashed", "Cancelled")


def due_runs(client: SyncPrefectClient, deployment_id: UUID) -> list[UUID]:
    """Flow runs of a deployment that are due, the earliest first."""
    wanted = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]),
        expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": datetime.now(UTC)}),
    )
    found = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_ASC)
    return [run.id for run in found]


@pytest.mark.nightly
def test_concurrent_runs_are_queued_and_a_sleeping_run_keeps_its_rows(
    desk: Desk, postgresql_url: str
) -> None:
    """The second flow run starts when the first one sleeps, and leaves the rows to it."""
    limited = Reply(status=429, headers={"Retry-After": str(LIMIT_S)}, body={"error": {"message": "slow"}})
    desk.provider.on("row 003", limited, Reply(text="late"))
    desk.provider.on("row", Reply(delay_s=4.0))
    log = desk.folder / "serve.log"
    with worked(desk, OPENCODE_TASKS_LEDGER=postgresql_url) as client:
        deployment = client.read_deployment_by_name("annotate-dataset/annotate")
        parameters = deployment.parameters | parameters_of(
            desk, ROWS, runner="threads", template=None, choices=None
        )
        client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))
        schedule = IntervalSchedule(interval=timedelta(seconds=EVERY_S))
        [made] = client.create_deployment_schedules(deployment.id, [(schedule, True)])

        wait_for(lambda: len(due_runs(client, deployment.id)) >= 2, log)
        first, second = due_runs(client, deployment.id)[:2]
        wait_for(lambda: "AwaitingConcurrencySlot" in history(client, second), log)
        # A third one would compete with the second for the slot.
        client.update_deployment_schedule(deployment.id, made.id, active=False)
        wait_for(lambda: state_of(client, first).name == "AwaitingRetry", log)
        wait_for(lambda: state_of(client, second).is_final(), log)
        assert state_of(client, first).name == "AwaitingRetry"
        asleep_at, waited_at = (
            next(state.timestamp for state in client.read_flow_run_states(of) if state.name == name)
            for of, name in ((first, "AwaitingRetry"), (second, "AwaitingConcurrencySlot"))
        )
        assert waited_at < asleep_at
        state = state_of(client, second)
        assert state.name == "Completed"
        assert "continued by run" in (state.message or "")
        assert client.read_flow_run(first).name in (state.message or "")
        wait_for(lambda: state_of(client, first).is_final(), log)
        names = [name for name in history(client, first) if name in FLOW_STATES]
        assert names == ["Running", "AwaitingRetry", "Running", "Completed"], log.read_text()[-4000:]

        report = client.read_deployment_by_name("cost-report/daily")
        parameters = report.parameters | {"output": str(desk.folder / "reports")}
        reporting = client.create_flow_run_from_deployment(report.id, parameters=parameters).id
        wait_for(lambda: state_of(client, reporting).is_final(), log)
        assert state_of(client, reporting).name == "Completed", log.read_text()[-4000:]
        of_report = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[reporting]))
        left = {artifact.key for artifact in client.read_artifacts(artifact_filter=of_report)}
    assert {"opencode-cost-report", "opencode-cost-report-table", "opencode-cost-report-page"} <= left
    assert (desk.folder / "reports" / "cost-report.html").exists()
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": ROWS}
    with Ledger.open(postgresql_url) as ledger:
        [run] = [run for run in ledger.runs.newest() if run["flow_run_ids"] == [str(first)]]
        assert run["deployment"] == "annotate-dataset/annotate"
        assert Counter(row["status"] for row in ledger.results.outcomes(run["run_id"])) == {"completed": ROWS}
        assert not [run for run in ledger.runs.newest() if str(second) in run["flow_run_ids"]]
    sent = Counter(desk.provider.prompts())
    assert sent == Counter({f"row {i:03}": 1 for i in range(ROWS)} | {"row 003": 2})


@pytest.mark.nightly
def test_serve_runs_the_flow_on_its_schedule(desk: Desk) -> None:
    """``deployments/serve.py`` with a schedule of every minute, and a provider of the user's config."""
    desk.write_csv("in.csv", [{"id": str(i), "text": f"row {i}"} for i in range(3)])
    config = desk.folder / "config" / "opencode" / "opencode.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(desk.provider.opencode_config()))
    table = ("--input", "in.csv", "--output", "out.csv", "--cron", "* * * * *", "--incremental", "id")
    prompt = ("--model", "fake/echo", "--template", "Label: {text}", "--runner", "threads")
    script = [sys.executable, str(ROOT / "deployments" / "serve.py"), *table, *prompt]
    env = {"XDG_CONFIG_HOME": str(config.parents[1]), "OPENCODE_TASKS_OPENCODE_BIN": str(desk.binary)}
    log = desk.folder / "serve.log"
    with running(desk, "laptop", script, **env) as client:
        deployment = client.read_deployment_by_name("annotate-dataset/laptop")
        wait_for(lambda: due_runs(client, deployment.id), log)
        [first, *_] = due_runs(client, deployment.id)
        wait_for(lambda: state_of(client, first).is_final(), log)
        assert state_of(client, first).name == "Completed", log.read_text()[-4000:]
        assert client.read_deployment_by_name("cost-report/laptop").schedules
    assert [row["response"] for row in desk.read_csv("out.csv")] == [f"Label: row {i}" for i in range(3)]
