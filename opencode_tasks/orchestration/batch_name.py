"""The name of a batch's task run in Prefect: the rows that the batch has sent.

A batch claims its rows while it runs, so the name is known only then. It is updated during the batch.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from threading import Event, Thread
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import TaskRunContext

from opencode_tasks.domain.text import shorten
from opencode_tasks.ledger import BatchRows, Ledger
from opencode_tasks.plan.run_spec import RunSpec

NAME_INTERVAL_S = 10.0
MAX_ID_CHARS = 40


def batch_name(batch_id: str, sent: BatchRows | None) -> str:
    """Name of a batch that has sent these rows; None for no row yet."""
    if sent is None:
        return f"batch {batch_id}"
    first, last = (shorten(row_id, MAX_ID_CHARS) for row_id in (sent.first_id, sent.last_id))
    rows = f"row {first}" if sent.count == 1 else f"{sent.count} rows, {first} to {last}"
    return f"{rows} (batch {batch_id})"


@contextmanager
def named_by_rows(run_spec: RunSpec, batch_id: str) -> Generator[None]:
    """Name the current task run by the rows that the batch has sent, during the context and at its end."""
    context = TaskRunContext.get()
    if context is None:
        yield
        return
    task_run: Any = context.task_run
    has_ended = Event()

    def update() -> None:
        while not has_ended.wait(NAME_INTERVAL_S):
            with suppress(Exception):
                if (name := _name(run_spec, batch_id)) != task_run.name and not has_ended.is_set():
                    task_run.name = name
                    with get_client(sync_client=True) as client:
                        client.set_task_run_name(task_run.id, name)

    variables = copy_context()
    Thread(target=variables.run, args=(update,), name=f"opencode-name-{batch_id}", daemon=True).start()
    try:
        yield
    finally:
        has_ended.set()
        # Prefect's engine sends the name with the next state. An error must not hide that of the batch.
        with suppress(Exception):
            task_run.name = _name(run_spec, batch_id)


def _name(run_spec: RunSpec, batch_id: str) -> str:
    with Ledger.open(run_spec.ledger_url) as ledger:
        return batch_name(batch_id, ledger.attempts.batch_rows(run_spec.run_id, batch_id))
