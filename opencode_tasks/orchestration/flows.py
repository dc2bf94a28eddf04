"""``annotate_dataset``: read a table, annotate it and write it, as one deployable flow.

A flow's function is pickled by value for Ray, with the globals that it uses, so its body is elsewhere.
"""

from __future__ import annotations

from typing import Any, Unpack

from prefect import flow
from prefect.client.schemas.objects import State

from opencode_tasks.orchestration.dataset import run
from opencode_tasks.plan.declaration import DatasetOptions
from opencode_tasks.plan.option_table import DATASET, with_defaults, with_parameters


@flow(name="annotate-dataset", log_prints=False, persist_result=False, validate_parameters=False)
@with_parameters
def annotate_dataset(
    input: str,  # noqa: A002  the contract's name
    output: str,
    **options: Unpack[DatasetOptions],
) -> dict[str, Any] | State[None]:
    """Annotate the table ``input`` and write it to ``output``; return the summary of the run.

    The parameters are the options of ``opencode-tasks annotate``. If ``runner`` is None, the rows run on
    the flow's own task runner, as ``with_options(task_runner=...)`` sets it. The flow run of a deployment
    sleeps during a long wait, and is suspended if a person must act. A flow run that its schedule starts
    while another one sleeps over the same rows ends Completed, with the message "continued by".
    Raises TooManyFailedError, with the output written, if more rows failed than ``max_failed`` allows.
    """
    return run(input, output, **with_defaults(options, DATASET))
