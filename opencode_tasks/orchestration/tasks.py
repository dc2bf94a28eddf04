"""Prefect tasks: a batch of rows, and a single prompt for any flow.

The function of a task is pickled by value for Ray, with the globals that it uses: it must use only
names that pickle by reference, such as functions of modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from opencode_tasks.domain.records import Answer, RemoteTool
from opencode_tasks.engine.single_prompt import ask_single
from opencode_tasks.engine.worker import BatchResult, work_on
from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.orchestration.batch_name import named_by_rows
from opencode_tasks.orchestration.resolver import read_credentials, with_secrets
from opencode_tasks.orchestration.retries import (
    MAX_WAITS,
    RetryDelays,
    should_retry_batch,
    should_retry_prompt,
)
from opencode_tasks.plan.run_spec import RunSpec


@task(
    name="opencode-batch",
    task_run_name="batch {batch_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=MAX_WAITS,
    retry_delay_seconds=RetryDelays(),
    retry_condition_fn=should_retry_batch,
    retry_jitter_factor=None,
)
def run_batch(run_spec: RunSpec, batch_id: str, max_rows: int) -> BatchResult:
    """Execute up to ``max_rows`` rows of a run; their outcomes are recorded in the ledger."""
    with named_by_rows(run_spec, batch_id):
        return work_on(with_secrets(run_spec), batch_id, max_rows)


@task(
    name="opencode",
    cache_policy=NO_CACHE,
    retries=MAX_WAITS,
    retry_delay_seconds=RetryDelays(),
    retry_condition_fn=should_retry_prompt,
    retry_jitter_factor=None,
)
def opencode_task(
    prompt: str,
    *,
    model: str | None = None,
    system: str | None = None,
    agent: str | None = None,
    credentials: str | None = None,
    variant: str | None = None,
    schema: Mapping[str, Any] | None = None,
    tools: Sequence[RemoteTool] = (),
    opencode_config: Mapping[str, Any] | None = None,
    opencode_bin: str | None = None,
    backend: BackendName = "server",
    timeout: float = 600.0,
) -> Answer:
    """Send one prompt through opencode and return the answer; one Prefect task run per prompt.

    ``timeout`` is in seconds and bounds one attempt. ``credentials`` names an OpenCodeCredentials
    block. After an error that a retry can fix, the task is AwaitingRetry until the time that the
    provider named, or for our backoff, if the wait is at most ``max_inline_wait``. Otherwise it raises
    the typed error. ``with_options(retries=0)`` sends the prompt once.

    A worker process starts one opencode server and keeps it for its further prompts. On Ray, request
    the nodes with credentials: ``with remote_options(resources={"opencode_creds": 0.01}):``.
    """
    return ask_single(
        prompt,
        model=model,
        system=system,
        agent=agent,
        secrets=read_credentials(credentials),
        variant=variant,
        schema=schema,
        tools=tools,
        opencode_config=opencode_config,
        opencode_bin=opencode_bin,
        backend=backend,
        timeout=timeout,
    )
