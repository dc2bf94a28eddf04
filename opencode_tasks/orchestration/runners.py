"""Task runners of Prefect (threads, Ray) as executors of batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import copy_context
from threading import Thread
from typing import Any, ParamSpec, Self, TypeVar

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from opencode_tasks.engine.executor import BatchEnd, Capacity, local_capacity
from opencode_tasks.engine.worker import BatchResult
from opencode_tasks.orchestration.block_resolver import without_secrets
from opencode_tasks.orchestration.blocking_calls import call_blocking
from opencode_tasks.orchestration.context import task_run_in
from opencode_tasks.orchestration.local_ray import running_ray
from opencode_tasks.orchestration.ray_cluster import (
    batch_options,
    check_cluster,
    cluster_capacity,
    on_other_machines,
    other_machines,
)
from opencode_tasks.orchestration.tasks import run_batch
from opencode_tasks.plan.option_declarations import RunnerName
from opencode_tasks.plan.run_spec import RunSpec

P = ParamSpec("P")
T = TypeVar("T")


class TaskRunnerExecutor:
    """Executor over a task runner: each batch is a task run of the current flow."""

    def __init__(self, runner: TaskRunner[Any]) -> None:
        self._runner = runner

    @property
    def is_remote(self) -> bool:
        """Whether batches run in processes of Ray."""
        return is_ray(self._runner)

    def capacity(self) -> Capacity:
        """Capacity of the Ray nodes that have credentials, or of this machine."""
        if not self.is_remote:
            return local_capacity()
        return cluster_capacity()

    def check(self, ledger_url: str) -> None:
        """Raise SetupError if no batch could run on the Ray cluster, or reach the ledger."""
        if self.is_remote:
            check_cluster(ledger_url)

    def other_machines(self) -> Sequence[str]:
        """Names of the machines of the Ray cluster, without this one."""
        return [*other_machines()] if self.is_remote else ()

    def on_other_machines(self, function: Callable[[], T]) -> Mapping[str, T]:
        """See ``Executor.on_other_machines``."""
        return on_other_machines(function) if self.is_remote else {}

    def submit(self, run_spec: RunSpec, batch_id: str, max_rows: int) -> TaskRunBatch:
        """Submit the batch task. The task reads the secrets from their block again."""
        parameters = {
            "run_spec": without_secrets(run_spec),
            "batch_id": batch_id,
            "max_rows": max_rows,
        }
        with _remote_options(self._runner, run_spec.concurrency):
            # Through the runner and not the flow, so that a flow can use another runner than its own.
            return TaskRunBatch(self._runner.submit(run_batch, parameters=parameters))


class TaskRunBatch:
    """A batch that is a task run."""

    def __init__(self, future: PrefectFuture[Any]) -> None:
        self._future = future
        # Prefect's settings are in the context, its API URL among them.
        self._context = copy_context()

    def wait(self) -> BatchEnd:
        """Block until the task run has ended, and report a crash to Prefect."""
        return self._context.run(self._wait)

    def stop_waiting(self) -> None:
        """Do nothing: a task that is AwaitingRetry sleeps in Prefect's engine."""

    def _wait(self) -> BatchEnd:
        # Through the state: result() raises if the worker crashed.
        state: State[Any] | None = None
        with suppress(Exception):
            self._future.wait()
            state = self._future.state
            if state.is_crashed():
                self._report_crash(state)
        return _batch_end(state)

    def _report_crash(self, state: State[Any]) -> None:
        """Set the state in Prefect. The dead worker could not, and the task would be Running forever."""
        with get_client(sync_client=True) as client:
            client.set_task_run_state(self._future.task_run_id, state, force=True)


def _batch_end(state: State[Any] | None) -> BatchEnd:
    if state is None:
        return BatchEnd()
    result = _result_of(state)
    if state.is_completed():
        return BatchEnd(result=result if isinstance(result, BatchResult) else BatchResult(ended=0))
    return BatchEnd(
        error=result if isinstance(result, BaseException) else None, is_crashed=state.is_crashed()
    )


def _result_of(state: State[Any]) -> Any:
    """The value that a batch returned, or its error."""
    try:
        return call_blocking(state.aresult, raise_on_failure=False)
    except Exception as error:  # noqa: BLE001  whatever the runner stored is the cause
        return error


class _DaemonThreads(ThreadPoolExecutor):
    """A thread for each call; the end of the process does not wait for it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start the call at once: the dispatcher bounds the number of calls."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  raised where the future is read
                future.set_exception(error)

        Thread(target=run, daemon=True).start()
        return future


class InterruptibleThreads(ThreadPoolTaskRunner[Any]):
    """Prefect's threads, without keeping a process that ends while a task sleeps in AwaitingRetry."""

    def __enter__(self) -> Self:
        """Start to accept tasks."""
        super().__enter__()
        self._executor = _DaemonThreads()
        return self


@contextmanager
def task_runner(name: RunnerName, ray_address: str | None = None) -> Generator[TaskRunner[Any]]:
    """A task runner to enter; a Ray that is started here has the credentials resource.

    A Ray that this process has started or joined already is used. The folder of a Ray that is started here is
    private and is removed with this process.
    """
    if name == "threads":
        yield InterruptibleThreads()
        return
    with running_ray(ray_address):
        from prefect_ray import RayTaskRunner

        yield RayTaskRunner(address="local")


@contextmanager
def runner_of_batches(context: FlowRunContext) -> Generator[TaskRunner[Any]]:
    """The task runner for the batches of a call in a flow run: that of the flow, or threads in a task.

    A task that waits for its batches may have the last free place of the flow's task runner.
    """
    if task_run_in(context.flow_run) is None:
        yield context.task_runner
        return
    with InterruptibleThreads() as threads:
        yield threads


def is_ray(runner: TaskRunner[Any]) -> bool:
    """Whether a task runner is Ray's. Does not import Ray."""
    return type(runner).__name__ == "RayTaskRunner"


def _remote_options(runner: TaskRunner[Any], concurrency: int) -> AbstractContextManager[object]:
    """Context in which a batch is submitted."""
    if not is_ray(runner):
        return nullcontext()
    from prefect_ray.context import remote_options

    return remote_options(**batch_options(concurrency))
