"""Events, artifacts, spans and metrics of runs, and the texts that a ledger deletes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import psycopg
import pytest
from cluster import Desk
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.task_runners import ThreadPoolTaskRunner

from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Ledger
from opencode_tasks.orchestration.report_flow import cost_report
from opencode_tasks.testing import Reply

pytestmark = pytest.mark.prefect

ROOT = Path(__file__).parents[2]
LIMIT_S = 60


def table(desk: Desk, count: int) -> list[str]:
    desk.write_csv("in.csv", [{"prompt": f"row {i}", "team": "a"} for i in range(count)])
    return desk.arguments("in.csv", "-o", "out.csv", "--label", "team", "--json")


def artifacts(flow_run_id: str) -> dict[str | None, Any]:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(flow_run_id)]))
    with get_client(sync_client=True) as client:
        return {found.key: found for found in client.read_artifacts(artifact_filter=wanted)}


def events(name: str, run_id: str) -> list[dict[str, Any]]:
    """Payloads of the events of a run, as soon as there is one."""
    deadline = time.monotonic() + LIMIT_S
    wanted = EventFilter(event=EventNameFilter(name=[name]))
    while time.monotonic() < deadline:
        with get_client(sync_client=True) as client:
            answer = client.request(
                "POST", "/events/filter", json={"filter": wanted.model_dump(mode="json"), "limit": 50}
            )
        found = [one["payload"] for one in answer.json()["events"] if one["payload"]["run_id"] == run_id]
        if found:
            return found
        time.sleep(0.5)
    return []


@pytest.mark.nightly
@pytest.mark.scripted
def test_a_run_publishes_its_progress_its_cost_and_two_events(desk: Desk) -> None:
    desk.provider.on("row 1", Reply(status=400, body={"error": {"message": "no"}}))
    ran = desk.run(*table(desk, 4))
    assert ran.code == 1, ran.stderr
    run_id = ran.summary["run_id"]
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        (flow_run_id,) = ledger.runs.newest()[0]["flow_run_ids"]
        cost = ledger.reports.spent()[0]["cost_pico"]
    found = artifacts(flow_run_id)
    assert found["opencode-progress"].data == 100.0
    assert "4 of 4 rows, 1 failed" in found["opencode-progress"].description
    (line,) = json.loads(found["opencode-cost"].data)
    assert (line["model_ref"], line["steps"], line["cost_source"]) == ("fake/echo", 3, "reported")
    (finished,) = events("opencode.run.finished", run_id)
    assert finished["rows"]["completed"] == 3
    recorded = events("opencode.usage.recorded", run_id)
    assert recorded[-1]["cost_usd"] == pytest.approx(cost / 10**12)
    assert recorded[-1]["input_tokens"] == ran.summary["tokens"]["input_tokens"]


@pytest.mark.slow
@pytest.mark.scripted
def test_a_drift_is_an_event_and_a_table(desk: Desk) -> None:
    is_worse: list[bool] = []
    desk.provider.on(lambda call: bool(is_worse) and "canary" in call.prompt, Reply(text="no"))
    desk.provider.on(lambda call: True, Reply(text="yes"))
    desk.write_csv("canary.csv", [{"prompt": f"canary {n}", "human": "yes"} for n in range(20)])
    more = ("--canary", "canary.csv", "--gold", "human", "--choices", "yes,no")
    for _ in range(5):
        assert desk.run(*table(desk, 1), *more, env={"PREFECT_API_URL": None}).code == 0
    is_worse.append(True)
    ran = desk.run(*table(desk, 1), *more)
    assert ran.code == 0, ran.stderr
    run_id = ran.summary["run_id"]
    (drift,) = events("opencode.quality.drift", run_id)
    assert (drift["since"], drift["rows"], drift["earlier_runs"]) == (run_id, 20, 5)
    assert drift["canary_run_id"] == ran.summary["canary"]["run_id"]
    assert "accuracy 0.0%, usual" in drift["message"]
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        (flow_run_id,) = ledger.runs.newest()[0]["flow_run_ids"]
    found = artifacts(flow_run_id)
    lines = {line["measure"]: line["drift"] for line in json.loads(found["opencode-canary"].data)}
    assert (lines["accuracy"], lines["failed"]) == ("yes", "no")
    # The progress is that of the rows.
    assert "1 of 1 rows" in found["opencode-progress"].description


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file", "File exists"),
        ("file/below", "Not a directory"),
        ("taken", "Is a directory"),
        ("nowhere://bucket/reports", "Protocol not known: nowhere"),
    ],
)
def test_a_place_where_the_report_cannot_be_written_is_one_line(
    place: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "cost-report.html").mkdir(parents=True)
    Ledger.open(str(tmp_path / "ledger.db")).close()
    output = place if "://" in place else str(tmp_path / place)
    with pytest.raises(InputError) as refused:
        cost_report.fn(output, ledger=str(tmp_path / "ledger.db"))
    assert refused.value.faults == (f"output: the report cannot be written to {output}: {reason}",)


@pytest.mark.nightly
@pytest.mark.scripted
def test_the_report_flow_writes_files_and_creates_artifacts(desk: Desk) -> None:
    assert desk.run(*table(desk, 3)).code == 0
    totals = cost_report(
        str(desk.folder / "reports"), ledger=str(desk.folder / "ledger.db"), by=["label"], since="7d"
    )
    assert totals["rows"] == 3
    names = [Path(name).name for name in totals["files"]]
    assert names == ["cost-report.html", "cost-report.csv", "cost-report-focus.csv"]
    assert all(Path(name).stat().st_size > 100 for name in totals["files"])
    frame = pd.read_csv(totals["files"][1])
    assert frame[["label", "label_value", "rows"]].to_numpy().tolist() == [["team", "a", 3]]
    wanted = ArtifactFilter(key=ArtifactFilterKey(like_="opencode-cost-report"))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC)
    latest = {one.key: one for one in found[:3]}
    assert "Cost of opencode-tasks" in str(latest["opencode-cost-report"].data)
    assert "cost-report.html" in str(latest["opencode-cost-report-page"].data)
    assert json.loads(str(latest["opencode-cost-report-table"].data))[0]["rows"] == 3


@pytest.fixture(scope="module")
def exported() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """The SDK, configured as an application does it: once per process."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
    return spans, reader


def ours(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def counted(reader: InMemoryMetricReader, name: str) -> dict[str, float]:
    """Sums of a histogram by the kind of token."""
    data = reader.get_metrics_data()
    sums: dict[str, float] = {}
    for resource in data.resource_metrics if data else []:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name != name:
                    continue
                for point in metric.data.data_points:
                    kind = str((point.attributes or {}).get("gen_ai.token.type", ""))
                    sums[kind] = sums.get(kind, 0) + point.sum  # pyright: ignore[reportAttributeAccessIssue]
    return sums


@pytest.mark.slow
def test_spans_and_metrics_have_genai_names(
    desk: Desk, exported: tuple[InMemorySpanExporter, InMemoryMetricReader]
) -> None:
    from flow_parts import users_flow

    spans, reader = exported
    desk.provider.on(
        "thinks",
        Reply(text="fine", input_tokens=100, cache_read_tokens=40, output_tokens=30, reasoning_tokens=10),
    )
    desk.provider.on("refused", Reply(status=400, body={"error": {"message": "no"}}))
    options = {
        "model": "fake/echo",
        "opencode_config": desk.provider.opencode_config(),
        "opencode_bin": str(desk.binary),
        "ledger": str(desk.folder / "ledger.db"),
    }
    frame = pd.DataFrame({"prompt": ["thinks", "refused"]})
    runner: Any = ThreadPoolTaskRunner()
    (result,) = users_flow.with_options(task_runner=runner)(frame, options)
    (run,), (batch,) = ours(spans, "opencode run"), ours(spans, "opencode batch")
    rows, (session,) = ours(spans, "opencode row"), ours(spans, "opencode session")[:1]
    assert run.context is not None
    assert batch.context is not None
    assert batch.parent is not None
    assert batch.parent.span_id == run.context.span_id
    assert {row.parent.span_id for row in rows if row.parent} == {batch.context.span_id}
    assert (run.attributes or {})["opencode_tasks.run_id"] == result.run_id
    attributes = {
        str((row.attributes or {})["opencode_tasks.row_id"]): dict(row.attributes or {}) for row in rows
    }
    answered, refused = attributes["0"], attributes["1"]
    assert (answered["gen_ai.provider.name"], answered["gen_ai.request.model"]) == ("fake", "echo")
    assert (answered["gen_ai.usage.input_tokens"], answered["gen_ai.usage.output_tokens"]) == (100, 30)
    assert answered["gen_ai.usage.cache_read.input_tokens"] == 40
    assert answered["opencode_tasks.cost_usd"] == pytest.approx(result.usage["cost_usd"].sum())
    assert refused["error.type"] == "invalid_request"
    assert str((session.attributes or {})["gen_ai.conversation.id"]).startswith("ses_")
    assert "thinks" not in str([dict(span.attributes or {}) for span in spans.get_finished_spans()])
    assert counted(reader, "gen_ai.client.token.usage") == {"input": 100, "output": 30}
    assert counted(reader, "gen_ai.client.operation.duration")[""] > 0


@pytest.mark.scripted
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("prompts", marks=pytest.mark.nightly),
        pytest.param("answers", marks=pytest.mark.slow),
        pytest.param("traces", marks=pytest.mark.nightly),
    ],
)
def test_a_run_deletes_texts_that_the_settings_do_not_keep(desk: Desk, kind: str) -> None:
    ran = desk.run(*table(desk, 2), env={f"OPENCODE_TASKS_STORE_{kind.upper()}": "false"})
    assert ran.code == 0, ran.stderr
    assert [row["response"] for row in desk.read_csv("out.csv")] == ["row 0", "row 1"]
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        story = ledger.results.row(ran.summary["run_id"], "0")
    assert story is not None
    kept = {
        "prompts": story["row"]["prompt"] is not None,
        "answers": story["row"]["response"] is not None,
        "traces": story["sessions"][0]["messages"] is not None,
    }
    # Traces repeat prompts and answers.
    assert kept == {name: name not in (kind, "traces") for name in kept}
    if kind == "answers":
        again = desk.run(*table(desk, 2))
        assert again.summary["rows"]["reused"] == 0


def queries() -> list[tuple[str, str]]:
    """Every query of the dashboards by its source, with Grafana's macro replaced as Grafana does."""
    folder = ROOT / "deployments" / "dashboards"
    found: list[tuple[str, str]] = []
    for panel in json.loads((folder / "grafana.json").read_text())["panels"]:
        sql = panel["targets"][0]["rawSql"]
        for column in ("day", "created_at"):
            between = f"{column} between '2026-01-01T00:00:00Z' and '2999-01-01T00:00:00Z'"
            sql = sql.replace(f"$__timeFilter({column})", between)
        found.append((f"grafana: {panel['title']}", sql))
    cards = json.loads((folder / "metabase.json").read_text())["cards"]
    return found + [(f"metabase: {card['name']}", card["dataset_query"]["native"]["query"]) for card in cards]


@pytest.mark.slow
@pytest.mark.scripted
def test_every_query_of_the_dashboards_runs_on_postgresql(desk: Desk, empty_postgresql: str) -> None:
    desk.provider.on("row 0", Reply(status=400, body={"error": {"message": "no"}}))
    assert desk.run(*table(desk, 3), "--ledger", empty_postgresql).code == 1
    results: dict[str, list[tuple[Any, ...]]] = {}
    with psycopg.connect(empty_postgresql) as connection:
        for name, sql in queries():
            assert "$__" not in sql, name
            results[name] = connection.execute(sql.encode()).fetchall()
    assert len(results) == 24
    for place in ("grafana", "metabase"):
        assert results[f"{place}: Rows"] == [(3,)]
        assert [line[:3] for line in results[f"{place}: Cost by label"]] == [("team", "a", 3)]
        assert results[f"{place}: Failures and their cost"][0][:4] == ("invalid_request", "fake/echo", 1, 1)
        assert len(results[f"{place}: Latest runs"]) == 1
        assert float(results[f"{place}: Cost"][0][0]) > 0
