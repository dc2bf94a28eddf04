"""The batch task: what Prefect sees of a group of rows."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from opencode_tasks.engine.worker import BatchCounts, work_on
from opencode_tasks.orchestration.retries import MAX_WAITS, RetryDelays, should_retry_batch
from opencode_tasks.plan.run_spec import RunSpec


@task(
    name="opencode-batch",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=MAX_WAITS,
    retry_delay_seconds=RetryDelays(),
    retry_condition_fn=should_retry_batch,
    retry_jitter_factor=None,
)
def run_batch(run_spec: RunSpec, batch_id: str, most: int) -> BatchCounts:
    """Run up to ``most`` rows of a job; their outcomes are in the ledger, only counts come back."""
    return work_on(run_spec, batch_id, most)
