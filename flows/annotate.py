"""The deployable entry point ``flows/annotate.py:annotate_dataset``.

The parameters are the options of ``opencode-tasks annotate``, with underscores.
"""

from opencode_tasks.orchestration.flows import annotate_dataset

__all__ = ["annotate_dataset"]
