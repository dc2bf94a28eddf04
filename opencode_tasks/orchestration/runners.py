"""Choosing and asking the task runner: Ray or threads."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from threading import Thread
from typing import Any, ParamSpec, Self, TypeVar, cast

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import Ledger
from opencode_tasks.orchestration.ray import CREDENTIALS, is_running, ray_folder, ray_options
from opencode_tasks.plan.declaration import RunnerName
from opencode_tasks.system import restore_sigterm_handler
from opencode_tasks.system.node import memory_available_bytes

P = ParamSpec("P")
T = TypeVar("T")
CREDENTIALS_PER_PROMPT = 0.01
MAX_PROMPTS = 10_000
# What a warm server of opencode takes (measured: 0.8-1.0 GB).
PROCESS_BYTES = 1_000_000_000


class _DaemonThreads(ThreadPoolExecutor):
    """A thread for each call, for which the end of the process does not wait."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start the call at once: how many there are at a time is bounded by who submits."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  whoever waits for the call is told
                future.set_exception(error)

        Thread(target=run, daemon=True).start()
        return future


class InterruptibleThreads(ThreadPoolTaskRunner[Any]):
    """Prefect's threads, which do not keep a process that is to end: an AwaitingRetry only sleeps there."""

    def __enter__(self) -> Self:
        """Begin to take tasks."""
        super().__enter__()
        self._executor = _DaemonThreads()
        return self


@contextmanager
def task_runner(name: RunnerName, ray_address: str | None = None) -> Generator[TaskRunner[Any]]:
    """A task runner for ``flow.with_options``; a Ray that we start has the credentials resource.

    A Ray that this process has started already is taken as it is. The folder of one that is started
    here is private and goes with this process.
    """
    if name == "threads":
        yield InterruptibleThreads()
        return
    if ray_address is not None:
        # Before Ray is imported, which reads it.
        _hand_over_token()
    from prefect_ray import RayTaskRunner

    if ray_address is not None:
        yield RayTaskRunner(
            address=ray_address, init_kwargs={"log_to_driver": False, "logging_level": logging.ERROR}
        )
        return
    if is_running():
        # Started early, and ended by who started it.
        yield RayTaskRunner(address="local")
        return
    with ray_folder() as folder:
        yield RayTaskRunner(address="local", init_kwargs=ray_options(folder))


def _hand_over_token() -> None:
    """Have Ray show the cluster its token where there is one at hand, as ``ray start`` asks for it then.

    ``ray.init`` by itself would not (ray 2.60). A cluster that asks for none does not mind.
    """
    has_token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if has_token or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def started(runner: TaskRunner[Any]) -> Generator[TaskRunner[Any]]:
    """The runner, taking tasks, with SIGTERM handled as before.

    Ray sets a handler of its own (ray 2.60) that ends the process at once; Prefect's has the flow
    record what is in flight first.
    """
    with ExitStack() as stack:
        with restore_sigterm_handler():
            stack.enter_context(runner)
        yield runner


def is_ray(runner: TaskRunner[Any]) -> bool:
    """Whether a flow's task runner is Ray's; Ray is not imported to find out."""
    return type(runner).__name__ == "RayTaskRunner"


def lanes(runner: TaskRunner[Any]) -> int:
    """How many batches the runner can run at once: CPUs of the nodes with credentials, or of this machine."""
    if not is_ray(runner):
        return os.cpu_count() or 1
    of_nodes = (node["Resources"] for node in _living_nodes())
    return max(1, sum(int(one.get("CPU", 0)) for one in of_nodes if one.get(CREDENTIALS, 0.0) > 0))


def most_prompts(runner: TaskRunner[Any]) -> int:
    """How many prompts at once the credentials of the runner's nodes allow; no bound on threads."""
    if not is_ray(runner):
        return MAX_PROMPTS
    per_node = [float(node["Resources"].get(CREDENTIALS, 0.0)) for node in _living_nodes()]
    return int(sum(per_node) / CREDENTIALS_PER_PROMPT + 0.5)


def most_processes(runner: TaskRunner[Any]) -> int:
    """How many processes of opencode the memory of the runner's nodes, or of this machine, holds at once."""
    if not is_ray(runner):
        return max(1, memory_available_bytes() // PROCESS_BYTES)
    of_nodes = (node["Resources"] for node in _living_nodes())
    unknown = MAX_PROMPTS * PROCESS_BYTES
    memories = [one.get("memory", unknown) for one in of_nodes if one.get(CREDENTIALS, 0.0) > 0]
    return max(1, sum(int(memory) // PROCESS_BYTES for memory in memories))


def _living_nodes() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = cast("Any", ray).nodes()
    return [node for node in nodes if node["Alive"]]


def check_cluster(runner: TaskRunner[Any], ledger: Ledger) -> None:
    """Raise SetupError where a Ray cluster cannot run a batch; it would wait, or fail, for ever."""
    if not is_ray(runner):
        return
    nodes = _living_nodes()
    offered = [node["Resources"] for node in nodes]
    if not any(one.get(CREDENTIALS, 0.0) > 0 and one.get("CPU", 0.0) >= 1 for one in offered):
        raise SetupError(
            "unknown",
            raw_message=f"no node of this Ray cluster has the resource {CREDENTIALS!r} and a CPU",
            hint="start the nodes that have the credentials with: ray start "
            f"--resources='{{\"{CREDENTIALS}\": 1}}'",
        )
    machines = {(node["NodeManagerHostname"], node["NodeManagerAddress"]) for node in nodes}
    if len(machines) > 1 and ledger.url.startswith("sqlite"):
        raise SetupError(
            "unknown",
            raw_message="this Ray cluster has several machines, and a SQLite ledger is a file of one",
            hint="give a ledger that all of them reach: --ledger postgresql://…",
        )


def remote_options_for(runner: TaskRunner[Any], concurrency: int) -> Any:
    """A context in which a batch is submitted: it takes a CPU and credentials for its prompts.

    Ray must not run a batch again by itself: it would not know what was bought.
    """
    if not is_ray(runner):
        return nullcontext()
    from prefect_ray.context import remote_options

    resources = {CREDENTIALS: round(CREDENTIALS_PER_PROMPT * concurrency, 4)}
    return remote_options(num_cpus=1, max_retries=0, resources=resources)
