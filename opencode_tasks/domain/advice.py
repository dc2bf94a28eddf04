"""The fix of an ``error_type``, and a warning, for messages, summaries and pages. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from opencode_tasks.domain.hold import PILOT
from opencode_tasks.errors import OpenCodeError, row_error_classes

# Values of ``error_type`` that belong to no exception.
_FIXES = {
    PILOT: "look at its answers; to send the other rows, resume the run, or run it again without pilot",
    "invalid_input": "correct these rows of INPUT",
    "crashed": "lower --concurrency or use a machine with more memory, then run the command again",
}


def fix_for(error_type: str, model_ref: str) -> str:
    """The fix of an error of a row or a hold of a run: an instruction without a capital and a full stop."""
    fixes = _FIXES | {cls.error_type: cls.fix for cls in row_error_classes()}
    return fixes.get(error_type, OpenCodeError.fix).format(provider=model_ref.partition("/")[0])


def usage_warning(providers: Sequence[str], *, has_budget: bool) -> str:
    """Warning for providers that do not report the usage of their answers."""
    names = ", ".join(providers)
    verb = "reports" if len(providers) == 1 else "report"
    budget = "; each such call counts towards --max-cost with its upper bound" if has_budget else ""
    return f"{names} {verb} no usage: tokens and cost of those model calls are unknown{budget}"
