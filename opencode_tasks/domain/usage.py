"""Sums of usage that keep the unknown unknown. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from opencode_tasks.domain.records import TOKEN_COLUMNS, AttemptRecord, Usage

FIELDS = (*TOKEN_COLUMNS, "cost_pico")
UNKNOWN = Usage(**dict.fromkeys(FIELDS))


def add_usage(usages: Iterable[Usage]) -> Usage:
    """The sum; a field that is unknown in one summand is unknown. Of nothing, it is 0."""
    sums: dict[str, int | None] = dict.fromkeys(FIELDS, 0)
    for usage in usages:
        for name in FIELDS:
            value, so_far = getattr(usage, name), sums[name]
            sums[name] = None if value is None or so_far is None else so_far + value
    return Usage(**sums)


def total_usage(record: AttemptRecord) -> Usage:
    """What an attempt bought, child sessions included; unknown where no step tells it."""
    if not record.steps and not record.usage_known:
        return UNKNOWN
    return add_usage(step.usage for step in record.steps)
