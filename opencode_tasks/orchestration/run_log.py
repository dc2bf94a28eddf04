"""The lines of a run in the log of its Prefect flow run, and its errors as one line.

``opencode-tasks annotate`` shows the lines itself: there they are sent to the Prefect API alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from prefect.logging import get_run_logger

from opencode_tasks.domain.hold import Hold
from opencode_tasks.engine.canary_text import canary_lines
from opencode_tasks.engine.estimate_text import estimate_lines
from opencode_tasks.engine.progress_text import RunLines, limits_line, plan_lines, progress_line
from opencode_tasks.engine.result import AnnotationResult, summary
from opencode_tasks.engine.run import RunEvent
from opencode_tasks.engine.summary_text import (
    SHOWN_GROUPS,
    failure_lines,
    model_lines,
    paused_line,
    quality_lines,
    summary_lines,
)
from opencode_tasks.errors import InputError, OpenCodeTasksError, RunPausedError, SetupError
from opencode_tasks.ledger import Ledger, ledger_argument
from opencode_tasks.orchestration.context import current_flow_run
from opencode_tasks.outcomes.message_cleanup import one_line
from opencode_tasks.plan.plan import Plan
from opencode_tasks.quality.drift import CanaryReport, report_json

# Prefect's loggers of flow runs and task runs, which send their records to its API.
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
PROGRESS_INTERVAL_S = 60.0


class RunLog:
    """Logs the start, the progress, the holds and the end of one run in the current flow run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._log = get_run_logger()
        self._lines = RunLines()
        self._is_started = False
        self._next_progress_s = time.monotonic() + PROGRESS_INTERVAL_S

    def show(self, event: RunEvent) -> None:
        """Log an event if it is due: progress about every minute, anything else at once."""
        if event.warning is not None:
            self._log.warning("%s", event.warning)
        if event.estimate is not None:
            self._info(*estimate_lines(event.estimate))
        self._info(*quality_lines(event.quality))
        if event.canary is not None:
            self._canary(event.canary)
        if event.sizes is not None:
            self._info(*self._lines.start(event, time.monotonic()))
            if not self._is_started:
                self._is_started = True
                self._info(*plan_lines(self._plan), limits_line(self._plan.options))
        elif event.hold is not None:
            self.hold(event.hold)
        elif event.progress is not None:
            self._info(*self._lines.resumed(event.progress))
            if time.monotonic() >= self._next_progress_s:
                self._progress(event)

    def _canary(self, report: CanaryReport) -> None:
        log = self._log.warning if report.has_drift else self._log.info
        for line in canary_lines(report_json(report)):
            log("%s", line)

    def hold(self, hold: Hold) -> None:
        """Log a hold that begins."""
        if (line := self._lines.hold(hold, datetime.now(UTC))) is not None:
            self._log.warning("%s", line)

    def paused(self, paused: RunPausedError) -> None:
        """Log the progress up to a pause, without a pace."""
        with Ledger.open(self._plan.ledger_url) as ledger:
            progress = ledger.runs.progress(paused.run_id)
        self._info(progress_line(progress, 0, 0.0, 0))

    def finished(self, result: AnnotationResult, started_at: datetime | None) -> None:
        """Log rows by status, tokens and cost, and the most frequent messages of failed rows."""
        started_s = None if started_at is None else started_at.timestamp()
        totals = summary(
            result.run_id,
            result.progress,
            result.budget,
            started=started_s,
            quality=result.quality,
            votes=result.votes,
            canary=result.canary,
            models=result.models,
        )
        self._info(*summary_lines(totals), *model_lines(totals))
        if not result.progress.failed:
            return
        with Ledger.open(self._plan.ledger_url) as ledger:
            groups = ledger.results.failure_messages(result.run_id, limit=SHOWN_GROUPS)
        for line in failure_lines(
            groups,
            result.progress.failed,
            result.run_id,
            self._plan.model_ref,
            ledger_argument(self._plan.ledger_name),
        ):
            self._log.warning("%s", line)

    def _progress(self, event: RunEvent) -> None:
        self._next_progress_s = time.monotonic() + PROGRESS_INTERVAL_S
        self._info(self._lines.progress(event, time.monotonic()))

    def _info(self, *lines: str | None) -> None:
        for line in lines:
            if line is not None:
                self._log.info("%s", line)


def send_to_api_only() -> None:
    """Keep the records of flow runs and task runs from the terminal: Prefect's API gets them alone."""
    # The standard library would print a traceback for a record that the API does not accept.
    logging.raiseExceptions = False
    for name in RUN_LOGGERS:
        logging.getLogger(name).propagate = False


@contextmanager
def errors_in_one_line() -> Generator[None]:
    """Have Prefect log an error of this package in one line instead of a traceback.

    Prefect's engine logs an exception of a flow with its traceback, twice in a deployment. The error
    that leaves this context is logged once by its flow run, and once by each flow that it ends. It is
    raised as it is.
    """
    try:
        yield
    except OpenCodeTasksError as error:
        flow_run = current_flow_run()
        _errors.add(error, None if flow_run is None else str(flow_run.id))
        raise


class _ErrorRecords(logging.Filter):
    """Filter of log records: those with one of its errors lose the traceback, and their repetitions."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: WeakKeyDictionary[OpenCodeTasksError, set[str]] = WeakKeyDictionary()

    def add(self, error: OpenCodeTasksError, flow_run_id: str | None) -> None:
        """Log an error in the current flow run, and let no record of that flow run repeat it."""
        for name in (*RUN_LOGGERS, "prefect.engine"):
            logging.getLogger(name).addFilter(self)
        self._logged[error] = set()
        if flow_run_id is None:
            return
        get_run_logger().error("%s", error_line(error))
        self._logged[error].add(flow_run_id)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is kept; shortens it if it has one of the errors."""
        error: Any = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, OpenCodeTasksError) or error not in self._logged:
            return True
        flow_run_id = str(getattr(record, "flow_run_id", ""))
        if flow_run_id in self._logged[error]:
            return False
        self._logged[error].add(flow_run_id)
        record.exc_info, record.exc_text, record.args = None, None, None
        record.msg = error_line(error)
        return True


_errors = _ErrorRecords()


def error_line(error: OpenCodeTasksError) -> str:
    """The error in one line, with what to do if that is known."""
    if isinstance(error, InputError):
        return "; ".join(one_line(fault) for fault in error.faults)
    if isinstance(error, SetupError):
        hint = f"; fix: {error.hint}" if error.hint and error.hint not in error.raw_message else ""
        return f"{one_line(error.raw_message)}{hint}"
    if isinstance(error, RunPausedError):
        return paused_line(error)
    return one_line(str(error))
