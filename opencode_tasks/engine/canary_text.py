"""Lines and table that describe the canaries of a run, from ``drift.report_json``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencode_tasks.domain.money import format_usd, usd_to_pico

SHARES = ("accuracy", "failed", "changed")
_TITLES = {
    "accuracy": "accuracy",
    "failed": "failed",
    "changed": "changed answers",
    "input_tokens": "input tokens per row",
    "output_tokens": "output tokens per row",
    "cost_usd": "cost per row",
}


def canary_lines(found: Mapping[str, Any]) -> list[str]:
    """The measures in one line, with the usual ranges, and a line for a drift."""
    measures = ", ".join(_measure(one) for one in found["measures"])
    rows = found["rows"]
    line = f"canaries: {rows} {'row' if rows == 1 else 'rows'}, {measures}; {_verdict(found)}"
    if not found["has_drift"]:
        return [line]
    return [line, f"drift since run {found['since']}: {'; '.join(drift_parts(found))}"]


def drift_parts(found: Mapping[str, Any]) -> list[str]:
    """Each measure that is outside its usual range, with that range."""
    return [
        f"{_title(one)} {_shown(one, 'value')}, usual {_usual(one)} in {found['earlier_runs']} earlier runs"
        for one in found["measures"]
        if one["is_drift"]
    ]


def canary_table(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each measure: its name, its value, its usual range, and whether it is a drift."""
    return [
        {
            "measure": _title(one),
            "value": _shown(one, "value"),
            "usual": "" if one["low"] is None else _usual(one),
            "drift": "yes" if one["is_drift"] else "no",
        }
        for one in found["measures"]
    ]


def _verdict(found: Mapping[str, Any]) -> str:
    if found["has_drift"]:
        return "drift"
    known, needed = found["earlier_runs"], found["needed_runs"]
    if known < needed:
        return f"not enough earlier runs yet ({known} of {needed})"
    return f"no drift from {known} earlier runs"


def _measure(one: Mapping[str, Any]) -> str:
    usual = "" if one["low"] is None else f" (usual {_usual(one)})"
    return f"{_title(one)} {_shown(one, 'value')}{usual}"


def _title(one: Mapping[str, Any]) -> str:
    title = _TITLES[one["name"]]
    return title if one["field"] in (None, "response") else f"{title} of {one['field']}"


def _usual(one: Mapping[str, Any]) -> str:
    low, high = _shown(one, "low"), _shown(one, "high")
    return low if low == high else f"{low} to {high}"


def _shown(one: Mapping[str, Any], name: str) -> str:
    value: float = one[name]
    if one["name"] in SHARES:
        return f"{value:.1%}"
    return format_usd(usd_to_pico(value)) if one["name"] == "cost_usd" else f"{value:.1f}"
