"""Executor: where the batches of a run are executed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from opencode_tasks.engine.worker import BatchResult
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.system.ray_node import memory_available_bytes

T = TypeVar("T")

# More prompts than any run has in flight.
NO_PROMPT_LIMIT = 10_000
# Memory of one opencode server (measured: 0.8 to 1.0 GB).
PROCESS_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """CPUs for batches and servers, and the prompts and opencode processes that may run at the same time."""

    cpus: int
    prompts: int
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEnd:
    """How a batch ended: with a ``result``, with an ``error``, or with neither if its worker was lost.

    ``is_crashed`` says that the worker process died. An ``error`` may accompany it.
    """

    result: BatchResult | None = None
    error: BaseException | None = None
    is_crashed: bool = False


class BatchHandle(Protocol):
    """A batch that was submitted."""

    def wait(self) -> BatchEnd:
        """Block until the batch has ended. Called once, from a separate thread; never raises."""
        ...

    def stop_waiting(self) -> None:
        """End the batch early if it only waits for the time of its next row.

        Rows in flight are stopped through the status of the run in the ledger, not by this.
        """
        ...


class Executor(Protocol):
    """Runs batches in threads, in processes or on a cluster."""

    @property
    def is_remote(self) -> bool:
        """Whether batches run in other processes, which start their own opencode servers."""
        ...

    def capacity(self) -> Capacity:
        """CPUs, and the number of prompts and processes that can run at the same time."""
        ...

    def check(self, ledger_url: str) -> None:
        """Raise SetupError if no batch can run here, or if batches cannot reach the ledger."""
        ...

    def other_machines(self) -> Sequence[str]:
        """Names of the machines of batches, without this one."""
        ...

    def on_other_machines(self, function: Callable[[], T]) -> Mapping[str, T]:
        """Call a function on each other machine; results by the names of the machines.

        A machine that does not answer is left out. ``function`` must pickle by reference.
        """
        ...

    def submit(self, run_spec: RunSpec, batch_id: str, max_rows: int) -> BatchHandle:
        """Start a batch of at most ``max_rows`` rows; does not block."""
        ...


def local_capacity() -> Capacity:
    """Capacity of this machine, with the opencode processes that its free memory holds."""
    return Capacity(
        cpus=os.cpu_count() or 1,
        prompts=NO_PROMPT_LIMIT,
        processes=max(1, memory_available_bytes() // PROCESS_BYTES),
    )
