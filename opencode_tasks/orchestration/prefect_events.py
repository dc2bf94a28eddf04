"""Artifacts and events that a run publishes to Prefect, during the run and at its end.

A private server, started for one command, gets none: no person can see them. Publishing never ends a
run: errors of the server are ignored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.events import emit_event
from prefect.logging import get_run_logger

from opencode_tasks.domain.money import format_usd, pico_to_usd
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.engine.canary_text import canary_table, drift_parts
from opencode_tasks.errors import RunPausedError
from opencode_tasks.ledger import Ledger, Progress
from opencode_tasks.orchestration.blocking_calls import call_blocking
from opencode_tasks.orchestration.context import current_flow_run
from opencode_tasks.orchestration.publisher import Publisher
from opencode_tasks.quality.drift import CanaryReport, report_json
from opencode_tasks.settings import settings

PROGRESS_KEY = "opencode-progress"
COST_KEY = "opencode-cost"
QUALITY_KEY = "opencode-quality"
QUALITY_COLUMNS = ("accuracy", "low", "high", "n", "unanswered", "kappa", "mae")
USAGE_RECORDED = "opencode.usage.recorded"
RUN_FINISHED = "opencode.run.finished"
RUN_PAUSED = "opencode.run.paused"
RUN_FAILING = "opencode.run.failing"
QUALITY_DRIFT = "opencode.quality.drift"
CANARY_KEY = "opencode-canary"
LONG_WAIT_S = 3600.0
# A failure rate over fewer rows is not meaningful.
MIN_ROWS = 20
ARTIFACT_INTERVAL_S = 5.0
EVENT_INTERVAL_S = 60.0


class PrefectPublisher(Publisher):
    """Publishes the progress, the cost and the end of one run."""

    def __init__(self) -> None:
        self._artifact: UUID | None = None
        self._artifact_at = 0.0
        self._event_at = time.monotonic()
        self._published_pico = -1
        self._is_failing = False

    def progress(self, run_id: str, progress: Progress) -> None:
        """Update the progress artifact, and publish usage and a high failure rate when they are due."""
        now = time.monotonic()
        if now - self._artifact_at >= ARTIFACT_INTERVAL_S or not progress.open:
            self._artifact_at = now
            with suppress(Exception):
                self._update_artifact(run_id, progress)
        if now - self._event_at >= EVENT_INTERVAL_S:
            self._event_at = now
            self._publish_usage(run_id, progress)
        if not self._is_failing and is_failing(progress):
            self._is_failing = True
            rows = {"failed": progress.failed, "ended": progress.total - progress.open}
            _emit(RUN_FAILING, run_id, {**rows, "total": progress.total})

    def stopped(self, ledger_url: str, run_id: str) -> None:
        """Update the progress artifact of a run that is paused or stopped, before its state changes."""
        with suppress(Exception):
            with Ledger.open(ledger_url) as ledger:
                progress = ledger.runs.progress(run_id)
            self._update_artifact(run_id, progress)

    def info(self, text: str) -> None:
        """Log a line of the flow run."""
        get_run_logger().info("%s", text)

    def warning(self, text: str) -> None:
        """Log a warning of the flow run."""
        get_run_logger().warning("%s", text)

    def _update_artifact(self, run_id: str, progress: Progress) -> None:
        done = progress.total - progress.open
        percent = 100.0 * done / progress.total if progress.total else 100.0
        cost = format_usd(progress.known_cost_pico)
        text = f"Run {run_id}: {done} of {progress.total} rows, {progress.failed} failed, {cost}"
        if progress.projected_cost_pico is not None:
            text += f", about {format_usd(progress.projected_cost_pico)} in total"
        self._artifact = self._artifact or _earlier_artifact()
        if self._artifact is None:
            self._artifact = call_blocking(
                acreate_progress_artifact, percent, key=PROGRESS_KEY, description=text
            )
        else:
            call_blocking(aupdate_progress_artifact, self._artifact, progress=percent, description=text)

    def _publish_usage(self, run_id: str, progress: Progress) -> None:
        if progress.known_cost_pico == self._published_pico:
            return
        self._published_pico = progress.known_cost_pico
        _emit(USAGE_RECORDED, run_id, _totals(progress))

    def finished(
        self, run_id: str, progress: Progress, cost: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
    ) -> None:
        """Publish the cost table and the end of the run. ``cost`` has a ledger line per model."""
        self.progress(run_id, progress)
        with suppress(Exception):
            lines = [_cost_line(line) for line in cost]
            description = f"Cost of run {run_id} by model"
            call_blocking(acreate_table_artifact, lines, key=COST_KEY, description=description)
        if summary.get("quality"):
            with suppress(Exception):
                lines = [_quality_line(field, found) for field, found in summary["quality"].items()]
                description = f"Quality of run {run_id}: answers compared with gold values"
                call_blocking(acreate_table_artifact, lines, key=QUALITY_KEY, description=description)
        if summary.get("canary"):
            with suppress(Exception):
                lines = canary_table(summary["canary"])
                description = f"Canaries of run {run_id}, compared with earlier runs"
                call_blocking(acreate_table_artifact, lines, key=CANARY_KEY, description=description)
        self._publish_usage(run_id, progress)
        _emit(RUN_FINISHED, run_id, summary)

    def drift(self, run_id: str, report: CanaryReport) -> None:
        """Publish that measures of the canaries are outside their usual range."""
        found = report_json(report)
        message = "; ".join(drift_parts(found))
        _emit(QUALITY_DRIFT, run_id, {"message": message, **found, "canary_run_id": report.run_id})


def _quality_line(field: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {"field": field} | {name: found[name] for name in QUALITY_COLUMNS}


def _earlier_artifact() -> UUID | None:
    """Progress artifact that this flow run made before it slept or was suspended; None without one."""
    flow_run = current_flow_run()
    if flow_run is None or flow_run.run_count <= 1:
        return None
    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]), key=ArtifactFilterKey(any_=[PROGRESS_KEY])
    )
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted, limit=1)
    return found[0].id if found else None


def is_failing(progress: Progress) -> bool:
    """Whether the share of failed rows is above the setting ``failure_alert``."""
    ended = progress.total - progress.open
    return ended >= MIN_ROWS and progress.failed > settings().failure_alert * ended


def publish_paused(paused: RunPausedError) -> None:
    """Publish that a run sleeps or waits for a person. Automations match the labels of the event."""
    wait_s = None if paused.until is None else (paused.until - datetime.now(UTC)).total_seconds()
    kind = "person" if wait_s is None else "long" if wait_s > LONG_WAIT_S else "short"
    payload = {
        "reason": paused.error_type,
        "message": str(paused),
        "until": None if paused.until is None else paused.until.isoformat(),
        "open_rows": paused.open_rows,
    }
    labels = {"opencode.wait": kind, "opencode.reason": paused.error_type}
    _emit(RUN_PAUSED, paused.run_id, payload, labels)


def _totals(progress: Progress) -> dict[str, Any]:
    """Tokens and cost so far; unknown values are None."""
    return {
        **{name: getattr(progress, name) for name in TOKEN_COLUMNS},
        "cost_usd": pico_to_usd(progress.cost_pico),
        "known_cost_usd": pico_to_usd(progress.known_cost_pico),
        "rows": progress.total - progress.open,
    }


def _cost_line(line: Mapping[str, Any]) -> dict[str, Any]:
    money = {name: format_usd(line[f"{name}_pico"]) for name in ("cost", "failed_cost")}
    names = ("model_ref", "rows", "steps", *TOKEN_COLUMNS)
    return {**{name: line[name] for name in names}, **money, "cost_source": line["cost_source"]}


def _emit(
    event: str, run_id: str, payload: Mapping[str, Any], labels: Mapping[str, str] | None = None
) -> None:
    resource = {
        **(labels or {}),
        "prefect.resource.id": f"opencode-tasks.run.{run_id}",
        "prefect.resource.name": run_id,
    }
    with suppress(Exception):
        emit_event(event, resource=resource, payload={**payload, "run_id": run_id})
