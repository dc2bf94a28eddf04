"""The deployable entry point ``flows/annotate.py:annotate_dataset``, on Ray.

Its parameters are the options of ``opencode-tasks annotate``, with underscores.
"""

from typing import Any, cast

from prefect_ray import RayTaskRunner

from opencode_tasks.flow import dataset

# Any, since prefect-ray's type of future is not the one that Prefect asks for.
_runner: Any = cast(
    "Any",
    RayTaskRunner(
        address="local",
        init_kwargs={"resources": {"opencode_creds": 1}, "include_dashboard": False, "log_to_driver": False},
    ),
)
annotate_dataset = dataset.annotate_dataset.with_options(task_runner=_runner)
