"""Checks of the arguments of ``opencode_task``, which are options of a run without a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencode_tasks.domain.prompt_faults import prompt_faults
from opencode_tasks.plan.option_faults import option_faults
from opencode_tasks.plan.option_signatures import value_faults
from opencode_tasks.plan.options import Options

# They are checked when the schema is read.
OF_SCHEMA = ("choices", "schema")


def single_prompt_faults(prompt: Any, tools: Any, options: Mapping[str, Any]) -> list[str]:
    """One line for each argument that is not allowed. The schema is checked when it is read."""
    faults = prompt_faults(prompt, tools) + value_faults(options)
    if isinstance(options["model"], list | tuple):
        faults.append(f"--model: {options['model']!r:.80} is not text; one model answers a single prompt")
    if faults:
        return faults
    return option_faults(Options(**{name: options[name] for name in options if name not in OF_SCHEMA}))
