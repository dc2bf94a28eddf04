"""An instance of every exception of the package, with a value for each of its fields."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from typing import Any

from opencode_tasks.errors import OpenCodeTasksError, all_classes

VALUES: dict[str, Any] = {
    "node_id": "n",
    "error_type": "odd",
    "exit_code": 3,
    "raw_message": "raw",
    "reset_time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "retry_after": 7.5,
    "partial_text": "half",
    "stderr": "err",
    "clock": "stall",
    "seconds": 40.0,
    "text": "{",
    "tools": ("bash",),
    "limit_usd": 1.0,
    "spent_usd": 1.5,
    "hint": "install it",
    "run_id": "r1",
    "until": datetime(2026, 1, 2, tzinfo=UTC),
    "message": "no credit",
    "open_rows": 3,
    "failed": 5,
    "allowed": 2,
    "field": "label",
    "accuracy": 0.5,
    "required": 0.9,
    "summary": {"rows": 9},
    "faults": ("one", "two"),
}


def arguments(cls: type[OpenCodeTasksError]) -> dict[str, Any]:
    """A value for each parameter of a constructor, in its order."""
    parameters = inspect.signature(cls).parameters.values()
    return {one.name: VALUES.get(one.name, one.default) for one in parameters}


def example(cls: Any) -> Any:
    """An instance with a value for every field."""
    return cls(*arguments(cls).values())


CLASSES = all_classes()[1:]
EXAMPLES: tuple[OpenCodeTasksError, ...] = tuple(example(cls) for cls in CLASSES)
