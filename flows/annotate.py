"""The deployable entry point ``flows/annotate.py:annotate_dataset``, on Ray.

Its parameters are the options of ``opencode-tasks annotate``, with underscores.
"""

from prefect_ray import RayTaskRunner

from opencode_tasks.flow import dataset

annotate_dataset = dataset.annotate_dataset.with_options(
    task_runner=RayTaskRunner(
        address="local",
        init_kwargs={"resources": {"opencode_creds": 1}, "include_dashboard": False, "log_to_driver": False},
    )
)
