"""One prompt as one Prefect task, for anyone's flow.

A task's function is pickled by value for Ray, with the globals it uses, so its body is elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from opencode_tasks.domain.records import Answer, RemoteTool
from opencode_tasks.engine.single_prompt import ask_single
from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.orchestration.retries import MAX_WAITS, RetryDelays, should_retry_prompt


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
    """Ask opencode; raises the typed errors where asking again cannot help.

    Until then the task is AwaitingRetry until the provider's moment, or for our backoff, if that is
    at most ``max_inline_wait`` away. ``with_options(retries=0)`` asks once. ``credentials`` names an
    OpenCodeCredentials block.

    A worker process starts one warm server and keeps it for its further prompts. On Ray, ask for
    the nodes with credentials: ``with remote_options(resources={"opencode_creds": 0.01}):``.
    """
    return ask_single(
        prompt,
        model=model,
        system=system,
        agent=agent,
        credentials=credentials,
        variant=variant,
        schema=schema,
        tools=tools,
        opencode_config=opencode_config,
        opencode_bin=opencode_bin,
        backend=backend,
        timeout=timeout,
    )
