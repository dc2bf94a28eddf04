"""The batch task: what Prefect sees of a group of rows."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from opencode_tasks.engine.worker import BatchCounts, work_on
from opencode_tasks.orchestration.retries import MOST_WAITS, Delays, waits
from opencode_tasks.plan.run_spec import Job


@task(
    name="opencode-batch",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=MOST_WAITS,
    retry_delay_seconds=Delays(),
    retry_condition_fn=waits,
    retry_jitter_factor=None,
)
def run_batch(job: Job, batch_id: str, most: int) -> BatchCounts:
    """Run up to ``most`` rows of a job; their outcomes are in the ledger, only counts come back."""
    return work_on(job, batch_id, most)
