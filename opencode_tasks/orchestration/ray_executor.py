"""Executor on Ray alone, for commands without a Prefect API: their flow run could not be seen anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from opencode_tasks.engine.executor import Capacity
from opencode_tasks.engine.thread_executor import ThreadBatch, WorkerLostError
from opencode_tasks.engine.worker import BatchResult, work_on
from opencode_tasks.orchestration.ray_cluster import (
    batch_options,
    check_cluster,
    cluster_capacity,
    on_other_machines,
    other_machines,
)
from opencode_tasks.plan.run_spec import RunSpec

T = TypeVar("T")


class RayExecutor:
    """Runs each batch as a remote function of the Ray that this process has joined."""

    is_remote = True

    def capacity(self) -> Capacity:
        """Capacity of the nodes that have credentials."""
        return cluster_capacity()

    def check(self, ledger_url: str) -> None:
        """Raise SetupError if no batch could run on the cluster, or reach the ledger."""
        check_cluster(ledger_url)

    def other_machines(self) -> Sequence[str]:
        """See ``Executor.other_machines``."""
        return [*other_machines()]

    def on_other_machines(self, function: Callable[[], T]) -> Mapping[str, T]:
        """See ``Executor.on_other_machines``."""
        return on_other_machines(function)

    def submit(self, run_spec: RunSpec, batch_id: str, max_rows: int) -> ThreadBatch:
        """Start the batch. A thread here waits for it, and submits it again after each short wait."""
        return ThreadBatch(partial(_work_on_ray, run_spec, batch_id, max_rows), name=f"ray-batch-{batch_id}")


def _work_on_ray(run_spec: RunSpec, batch_id: str, max_rows: int) -> BatchResult:
    """Execute a batch once in a worker of Ray. Raises its error, or WorkerLostError if the worker died."""
    import ray  # noqa: PLC0415  loaded where a cluster is used
    from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415  the same

    api: Any = ray
    options = batch_options(run_spec.concurrency)
    remote = api.remote(work_on).options(name=f"opencode-batch-{batch_id}", **options)
    try:
        return cast("BatchResult", api.get(remote.remote(run_spec, batch_id, max_rows)))
    except RayTaskError as error:
        raise cast("Exception", cast("Any", error).cause) from None
    except RayError as error:
        raise WorkerLostError from error
