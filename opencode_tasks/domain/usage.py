"""Sums of usage in which unknown stays unknown. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from opencode_tasks.domain.records import TOKEN_COLUMNS, AttemptRecord, Usage

FIELDS = (*TOKEN_COLUMNS, "cost_pico")
UNKNOWN = Usage(**dict.fromkeys(FIELDS))


def total_of(values: Iterable[int | None]) -> int | None:
    """The sum of numbers; None if one of them is unknown, 0 without any."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None


def add_usage(usages: Iterable[Usage]) -> Usage:
    """The sum by field. A field that is unknown in one summand is unknown; an empty sum is 0."""
    found = list(usages)
    return Usage(**{name: total_of(getattr(usage, name) for usage in found) for name in FIELDS})


def total_usage(record: AttemptRecord) -> Usage:
    """Usage of an attempt, child sessions included; unknown if the usage is incomplete and has no step."""
    if not record.steps and not record.usage_known:
        return UNKNOWN
    return add_usage(step.usage for step in record.steps)
