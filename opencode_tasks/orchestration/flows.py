"""``annotate_dataset``: reads a table, annotates it and writes it, as one deployable flow.

The function of a flow is pickled by value for Ray, with the globals that it uses: it must use only
names that pickle by reference, such as functions of modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from opencode_tasks.engine.run import OnRunEvent
from opencode_tasks.errors import InputError, RunPausedError
from opencode_tasks.local_model import local_provider
from opencode_tasks.orchestration.block_resolver import BlockResolver
from opencode_tasks.orchestration.context import is_deployed, run_context
from opencode_tasks.orchestration.prefect_events import PrefectPublisher
from opencode_tasks.orchestration.resume import find_sleeping_run
from opencode_tasks.orchestration.run_log import errors_in_one_line
from opencode_tasks.orchestration.run_to_output import run_to_output
from opencode_tasks.orchestration.runners import TaskRunnerExecutor, task_runner
from opencode_tasks.orchestration.suspend import end_process_for
from opencode_tasks.plan.command import PreparedRun, prepare
from opencode_tasks.plan.option_declarations import DatasetOptions, OnWait, RunnerName
from opencode_tasks.plan.option_signatures import DATASET, value_faults, with_defaults, with_parameters

FLOW_NAME = "annotate-dataset"


@flow(name=FLOW_NAME, log_prints=False, persist_result=False, validate_parameters=False)
@with_parameters
def annotate_dataset(
    input: str,  # noqa: A002  the contract's name
    output: str,
    **options: Unpack[DatasetOptions],
) -> dict[str, Any] | State[None]:
    """Annotate the table ``input`` and write it to ``output``; return the summary of the run.

    The flow run of a deployment sleeps during a long wait, and is suspended if a person must act. A flow run
    that its schedule starts while another one sleeps over the same rows ends Completed, with the message
    "continued by".

    Args:
        input: Table to read: a file (path or fsspec URL), a folder, or ``sql:``.
        output: Table to write: a file (path or fsspec URL), or ``sql:``.
        **options: Options of ``DatasetOptions``, named as on the command line. If ``runner`` is None, the
            rows run on the flow's own task runner, as ``with_options(task_runner=...)`` sets it.

    Returns:
        The summary, as ``annotate --json`` prints it: run_id, rows by status, tokens, cost_usd, seconds.

    Raises:
        InputError: If the input or an option is invalid, with every fault.
        SetupError: If something that the run needs is not ready, or if the output cannot be written. Then
            the answers are in the ledger, and ``opencode-tasks export`` writes them.
        TooManyFailedError: If more rows failed than ``max_failed`` allows. The output is written.
        LowAccuracyError: If the answers are less accurate than ``min_accuracy`` requires. The output is
            written.

    Examples:
        >>> import pandas as pd
        >>> from opencode_tasks import annotate_dataset
        >>> pd.DataFrame({"prompt": ["one", "two"]}).to_csv("prompts.csv", index=False)
        >>> summary = annotate_dataset("prompts.csv", "answers.csv", backend="null", runner="threads")
        >>> summary["rows"]["completed"]
        2
        >>> pd.read_csv("answers.csv")["response"].tolist()
        ['one', 'two']
    """
    with errors_in_one_line():
        values = with_defaults(options, DATASET)
        if faults := value_faults({"input": input, "output": output, **values}):
            raise InputError(tuple(faults))
        return _annotate_dataset(input, output, **values)


def prepared_flow(
    prepared: PreparedRun, *, on_event: OnRunEvent | None = None
) -> Callable[..., dict[str, Any]]:
    """The flow ``annotate-dataset`` for a run that is prepared already, as the command line has it.

    Its parameters are only what Prefect shows of the run: ``input``, ``output`` and ``options``. They
    do not change the run, and must not hold secrets.
    """
    process = _InProcess(prepared, on_event)

    @flow(name=FLOW_NAME, log_prints=False, persist_result=False, validate_parameters=False)
    def annotate_prepared(
        input: str,  # noqa: A002  the contract's name
        output: str,
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Annotate the table ``input`` and write it to ``output``."""
        del input, output, options
        with errors_in_one_line():
            return process.run()

    return annotate_prepared


class _InProcess:
    """A prepared run of this process.

    Prefect pickles a flow, with this object in its closure, for each task on Ray. The prepared run
    holds the input and secrets, so the pickled object is empty.
    """

    def __init__(self, prepared: PreparedRun | None = None, on_event: OnRunEvent | None = None) -> None:
        self._prepared = prepared
        self._on_event = on_event

    def __reduce__(self) -> tuple[type[_InProcess], tuple[()]]:
        return _InProcess, ()

    def run(self) -> dict[str, Any]:
        """Execute the run in the current flow run."""
        assert self._prepared is not None, "a prepared run stays in its process"
        command = self._prepared.context.command
        return _execute_on(command["runner"], command["ray_address"], self._prepared, self._on_event)


def _annotate_dataset(
    source: str,
    target: str,
    *,
    runner: RunnerName | None,
    ray_address: str | None,
    no_wait: bool,
    **options: Any,
) -> dict[str, Any] | State[None]:
    """Body of ``annotate_dataset``. Returns a state if another flow run continues with these rows."""
    with local_provider(options.get("model"), _ignore) as base_config:
        prepared = prepare(
            source,
            target,
            resolver=BlockResolver(),
            base_config=base_config,
            runner=runner,
            ray_address=ray_address,
            flow_run_id=run_context().flow_run_id,
            on_wait=_wait_mode(no_wait=no_wait),
            **options,
        )
        for note in prepared.notes:
            get_run_logger().info("%s", note)
        if (end := find_sleeping_run(prepared)) is not None:
            get_run_logger().info("%s", end.message)
            return end
        return _execute_on(runner, ray_address, prepared, None)


def _execute_on(
    runner: RunnerName | None, ray_address: str | None, prepared: PreparedRun, on_event: OnRunEvent | None
) -> dict[str, Any]:
    """Execute a prepared run in the current flow run. A pause ends the process of a deployment's flow run."""
    publisher = PrefectPublisher()
    try:
        if runner is None:
            return run_to_output(prepared, None, on_event, publisher)
        with task_runner(runner, ray_address) as chosen, chosen:
            return run_to_output(prepared, TaskRunnerExecutor(chosen), on_event, publisher)
    except RunPausedError as paused:
        if prepared.plan.options.on_wait == "sleep":
            end_process_for(paused, prepared.plan)
        raise


def _wait_mode(*, no_wait: bool) -> OnWait:
    """How this flow run waits for long: without a process in a deployment, else here, or not at all."""
    if is_deployed():
        return "sleep"
    return "raise" if no_wait else "wait"


def _ignore(message: str) -> None:
    del message
