"""The fix of an ``error_type``, for messages, summaries and pages. Pure."""

from __future__ import annotations

from opencode_tasks.errors import OpenCodeError, row_error_classes

# Values of ``error_type`` that belong to no exception.
_FIXES = {
    "invalid_input": "correct these rows of INPUT",
    "crashed": "lower --concurrency or use a machine with more memory, then run the command again",
}


def fix_for(error_type: str, model_ref: str) -> str:
    """The fix of an error of a row or a hold of a run: an instruction without a capital and a full stop."""
    fixes = _FIXES | {cls.error_type: cls.fix for cls in row_error_classes()}
    return fixes.get(error_type, OpenCodeError.fix).format(provider=model_ref.partition("/")[0])
