"""``annotate_dataset``: read a table, annotate it, write it, as one deployable flow.

A flow's function is pickled by value for Ray, with the globals it uses, so its body is elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.orchestration.dataset import run
from opencode_tasks.orchestration.runners import RunnerName


@flow(name="annotate-dataset", log_prints=False, persist_result=False, validate_parameters=False)
def annotate_dataset(
    input: str,  # noqa: A002  the contract's name
    output: str,
    *,
    runner: RunnerName | None = "ray",
    ray_address: str | None = None,
    model: str | None = None,
    prompt_column: str = "prompt",
    template: str | None = None,
    id_column: str | None = None,
    label: Sequence[str] = (),
    system: str | None = None,
    agent: str | None = None,
    credentials: str | None = None,
    mcp_servers: Sequence[str] = (),
    variant: str | None = None,
    schema: str | Mapping[str, Any] | None = None,
    opencode_config: str | Mapping[str, Any] | None = None,
    opencode_bin: str | None = None,
    work_dir: str | None = None,
    log_dir: str | None = None,
    batch_size: int | None = None,
    concurrency: int | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    backend: BackendName = "server",
    timeout: float = 600.0,
    max_attempts: int = 3,
    bad_rows: str = "stop",
    ledger: str | None = None,
    max_cost: float | None = None,
    max_row_cost: float | None = None,
    on_budget: str = "pause",
    max_failed: str | int | None = None,
    no_wait: bool = False,
    limit: int | None = None,
    incremental: str | None = None,
    database: str | None = None,
    partition_by: Sequence[str] = (),
    refresh: bool = False,
) -> dict[str, Any] | State[None]:
    """Annotate the table ``input`` and write it to ``output``; the run's summary.

    Parameters are the options of ``opencode-tasks annotate``. ``runner`` None runs
    the rows on the flow's own task runner, as ``with_options(task_runner=...)`` sets it. A flow run
    of a deployment that must wait for long goes to sleep, or is suspended where a person is needed; one
    that its schedule starts while another sleeps over the same rows ends Completed, "continued by" it.
    Raises TooManyFailedError, with the output written, where more rows failed than ``max_failed``
    allows (None: any number).
    """
    options = {k: v for k, v in locals().items() if k not in ("input", "output")}
    return run(input, output, **options)
