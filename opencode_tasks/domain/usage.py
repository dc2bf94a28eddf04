"""Sums of usage in which unknown stays unknown. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from opencode_tasks.domain.records import TOKEN_COLUMNS, AttemptRecord, Usage

FIELDS = (*TOKEN_COLUMNS, "cost_pico")
UNKNOWN = Usage(**dict.fromkeys(FIELDS))


def add_usage(usages: Iterable[Usage]) -> Usage:
    """The sum by field. A field that is unknown in one summand is unknown; an empty sum is 0."""
    sums: dict[str, int | None] = dict.fromkeys(FIELDS, 0)
    for usage in usages:
        for name in FIELDS:
            value, so_far = getattr(usage, name), sums[name]
            sums[name] = None if value is None or so_far is None else so_far + value
    return Usage(**sums)


def total_usage(record: AttemptRecord) -> Usage:
    """Usage of an attempt, child sessions included; unknown if the usage is incomplete and has no step."""
    if not record.steps and not record.usage_known:
        return UNKNOWN
    return add_usage(step.usage for step in record.steps)
