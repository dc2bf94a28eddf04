"""What Prefect is told of a run while it goes on and at its end: artifacts and events.

Nobody looks at a server that we started for one command, so it is told nothing. To tell is a
courtesy everywhere: a server that is away must not end a run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event

from opencode_tasks.domain.money import format_usd, pico_to_usd
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.errors import RunPausedError
from opencode_tasks.ledger import Progress
from opencode_tasks.orchestration.prefect_api import is_private_server
from opencode_tasks.settings import settings

PROGRESS_KEY = "opencode-progress"
COST_KEY = "opencode-cost"
USAGE_RECORDED = "opencode.usage.recorded"
RUN_FINISHED = "opencode.run.finished"
RUN_PAUSED = "opencode.run.paused"
RUN_FAILING = "opencode.run.failing"
LONG_WAIT_S = 3600.0
# Fewer rows than this say nothing of a rate.
MIN_ROWS = 20
SHOW_EVERY_S = 5.0
EVENT_EVERY_S = 60.0


class PrefectPublisher:
    """Tells Prefect how one run goes."""

    def __init__(self) -> None:
        self._artifact: UUID | None = None
        self._shown_at = 0.0
        self._event_at = time.monotonic()
        self._told_pico = -1
        self._is_failing = False

    def progress(self, run_id: str, progress: Progress) -> None:
        """Show the rows done as a progress artifact, and tell what was bought since, now and then."""
        if is_private_server():
            return
        now = time.monotonic()
        if now - self._shown_at >= SHOW_EVERY_S or not progress.open:
            self._shown_at = now
            with suppress(Exception):
                self._show(run_id, progress)
        if now - self._event_at >= EVENT_EVERY_S:
            self._event_at = now
            self._usage(run_id, progress)
        if not self._is_failing and is_failing(progress):
            self._is_failing = True
            rows = {"failed": progress.failed, "ended": progress.total - progress.open}
            _emit(RUN_FAILING, run_id, {**rows, "total": progress.total})

    def _show(self, run_id: str, progress: Progress) -> None:
        done = progress.total - progress.open
        percent = 100.0 * done / progress.total if progress.total else 100.0
        cost = format_usd(progress.known_cost_pico)
        told = f"Run {run_id}: {done} of {progress.total} rows, {progress.failed} failed, {cost}"
        if self._artifact is None:
            made: Any = create_progress_artifact(percent, key=PROGRESS_KEY, description=told)
            self._artifact = made
        else:
            update_progress_artifact(self._artifact, progress=percent, description=told)

    def _usage(self, run_id: str, progress: Progress) -> None:
        if progress.known_cost_pico == self._told_pico:
            return
        self._told_pico = progress.known_cost_pico
        _emit(USAGE_RECORDED, run_id, _totals(progress))

    def finished(
        self, run_id: str, progress: Progress, cost: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
    ) -> None:
        """Leave the table of costs, and tell that the run has ended. ``cost`` are the ledger's lines."""
        if is_private_server():
            return
        self.progress(run_id, progress)
        with suppress(Exception):
            lines = [_line(line) for line in cost]
            create_table_artifact(lines, key=COST_KEY, description=f"What run {run_id} cost, by model")
        self._usage(run_id, progress)
        _emit(RUN_FINISHED, run_id, summary)


def is_failing(progress: Progress) -> bool:
    """Whether more of the rows that have ended failed than the setting has people told of."""
    ended = progress.total - progress.open
    return ended >= MIN_ROWS and progress.failed > settings().failure_alert * ended


def publish_paused(paused: RunPausedError) -> None:
    """Tell that a run goes to sleep or waits for a person; the labels are for automations to match."""
    if is_private_server():
        return
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
    """What was bought so far; unknown is null."""
    return {
        **{name: getattr(progress, name) for name in TOKEN_COLUMNS},
        "cost_usd": pico_to_usd(progress.cost_pico),
        "known_cost_usd": pico_to_usd(progress.known_cost_pico),
        "rows": progress.total - progress.open,
    }


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
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
        emit_event(event, resource=resource, payload={"run_id": run_id, **payload})
