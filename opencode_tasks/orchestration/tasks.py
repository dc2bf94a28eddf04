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
from opencode_tasks.errors import InputError
from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.orchestration.batch_name import named_by_rows
from opencode_tasks.orchestration.block_resolver import read_credentials, with_secrets
from opencode_tasks.orchestration.retries import (
    MAX_WAITS,
    RetryDelays,
    should_retry_batch,
    should_retry_prompt,
)
from opencode_tasks.plan.answer_format import MAX_REPAIRS, answer_format
from opencode_tasks.plan.options import answer_schema, make_clocks
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.plan.single_prompt_options import single_prompt_faults


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
    choices: str | Sequence[str] | None = None,
    output_type: Any = None,
    max_repairs: int = MAX_REPAIRS,
    tools: Sequence[RemoteTool] = (),
    opencode_config: Mapping[str, Any] | None = None,
    opencode_bin: str | None = None,
    backend: BackendName | None = None,
    timeout: float | None = None,
    first_event_timeout: float | None = None,
    stall_timeout: float | None = None,
    tool_timeout: float | None = None,
) -> Answer:
    """Send one prompt through opencode and return the answer; one Prefect task run per prompt.

    After an error that a retry can fix, the task is AwaitingRetry until the time that the provider named, or
    for our backoff, if the wait is at most ``max_inline_wait``. ``with_options(retries=0)`` sends the prompt
    once.

    A worker process starts one opencode server and keeps it for its further prompts. On Ray, request the
    nodes with credentials: ``with remote_options(resources={"opencode_creds": 0.01}):``.

    ``opencode_task.map(prompts, schema=unmapped(schema))`` sends many prompts. Prefect's ``map`` takes the
    items of an argument that is a list or a dict one by one: wrap such an argument in ``unmapped``.

    Args:
        prompt: The prompt. It is sent as it is: nothing in it is expanded.
        model: Model as ``provider/model``; None for opencode's default.
        system: System text of the agent; None for "You are a helpful assistant."
        agent: Agent of the user's opencode config; None for an agent without tools.
        credentials: Name of an ``OpenCodeCredentials`` block; None for the logins and keys of the machine.
        variant: Variant of the model, such as its reasoning effort; None for the model's default.
        schema: JSON Schema of the answer; None for text.
        choices: Labels of which the answer is one, in place of a schema.
        output_type: Type of the answer, in place of a schema: a pydantic model, a dataclass, a TypedDict or
            another type that pydantic knows. Its validators check the answer.
        max_repairs: Maximum number of requests for a corrected answer, if one does not fit.
        tools: Remote MCP servers whose tools the agent may use.
        opencode_config: opencode config, merged over the user's global one; None adds nothing.
        opencode_bin: Path of the opencode binary; None for the one that ``opencode-tasks setup`` reports.
        backend: ``server`` (a long-running process), ``cli`` (a process per prompt) or ``null`` (echo); None
            means ``server``.
        timeout: Time limit of one attempt, in seconds; None for 600.
        first_event_timeout: Time limit until the provider's first sign of an answer, in seconds; None for
            the setting, or ``timeout``.
        stall_timeout: Time limit without any event after that while no tool runs, in seconds; None for the
            setting, or ``timeout``.
        tool_timeout: Time limit of one call of a tool, in seconds; None for the setting, or ``timeout``.

    Returns:
        The answer, with its sessions and usage. Its attribute ``structured`` is the JSON value.

    Raises:
        OpenCodeError: One of its subclasses, if a retry cannot fix the error, or the attempts are used up, or
            the wait is too long.
        InputError: If an argument is invalid.
        SetupError: If opencode cannot be started.

    Examples:
        >>> from opencode_tasks import opencode_task
        >>> from prefect import flow
        >>> @flow
        ... def check(number: int) -> str:
        ...     return opencode_task(f"Is {number} a prime number?", model="anthropic/claude-haiku-4-5").text
        >>> check(7)
        'yes'
    """
    options: dict[str, Any] = {
        "model": model,
        "system": system,
        "agent": agent,
        "credentials": credentials,
        "variant": variant,
        "schema": schema,
        "choices": choices,
        "max_repairs": max_repairs,
        "opencode_config": {} if opencode_config is None else opencode_config,
        "opencode_bin": opencode_bin,
        "backend": backend,
        "timeout": timeout,
        "first_event_timeout": first_event_timeout,
        "stall_timeout": stall_timeout,
        "tool_timeout": tool_timeout,
    }
    if faults := single_prompt_faults(prompt, tools, options):
        raise InputError(tuple(faults))
    return ask_single(
        prompt,
        model=model,
        system=system,
        agent=agent,
        secrets=read_credentials(credentials),
        variant=variant,
        answer_format=answer_format(answer_schema(schema, choices, output_type), output_type, max_repairs),
        tools=tools,
        opencode_config=opencode_config,
        opencode_bin=opencode_bin,
        backend=backend or "server",
        clocks=make_clocks(timeout, first_event_timeout, stall_timeout, tool_timeout),
    )
