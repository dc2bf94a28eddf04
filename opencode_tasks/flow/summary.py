"""A run in one object of plain values: what ``--json`` prints and the flow returns."""

from __future__ import annotations

import time
from typing import Any

from opencode_tasks.flow.annotate import AnnotationResult
from opencode_tasks.money import pico_to_usd
from opencode_tasks.records import TOKEN_COLUMNS


def summary(result: AnnotationResult, *, started: float | None) -> dict[str, Any]:
    """Rows by status, tokens, cost in USD and seconds; what is unknown is None."""
    progress = result.progress
    return {
        "run_id": result.run_id,
        "rows": {"total": progress.total, **result.counts, "reused": progress.reused},
        "tokens": {name: getattr(progress, name) for name in TOKEN_COLUMNS},
        "cost_usd": pico_to_usd(progress.cost_pico),
        "known_cost_usd": pico_to_usd(progress.known_cost_pico),
        "seconds": None if started is None else round(time.time() - started, 3),
    }
