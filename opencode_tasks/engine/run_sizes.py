"""Number and size of the batches of a plan, as its executor can take them."""

from __future__ import annotations

from opencode_tasks.engine.executor import Executor
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.plan.plan import Plan
from opencode_tasks.plan.sizes import Sizes, choose_sizes


def run_sizes(plan: Plan, executor: Executor, rows: int) -> Sizes:
    """The sizes for this number of rows."""
    options, capacity = plan.options, executor.capacity()
    return choose_sizes(
        rows=rows,
        cpus=capacity.cpus,
        shares_process=not executor.is_remote,
        batch_size=options.batch_size,
        concurrency=options.concurrency,
        backend=plan.backend,
        model_ref=plan.model_ref,
        one_owner=server_pool.has_exclusive_login(plan.spec),
        most=capacity.prompts,
        most_processes=capacity.processes,
    )
