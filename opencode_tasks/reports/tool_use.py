"""Cost of rows with tools, and how often each tool was called and denied."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from opencode_tasks.domain.json_values import list_in
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.ledger import ReportQueries


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLine:
    """A tool: the number of rows whose agent called it, and of those to which permissions denied it."""

    name: str
    rows: int
    denied_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """Rows whose agent called a tool.

    ``cost_pico`` is None if a part of it is unknown, ``steps`` counts model calls, ``checked_rows`` are those
    whose check command ran. ``tools`` has the most frequent one first.
    """

    rows: int
    steps: int
    cost_pico: int | None
    known_cost_pico: int
    checked_rows: int
    passed_rows: int
    tools: Sequence[ToolLine]

    @property
    def steps_per_row(self) -> float | None:
        """Mean number of model calls of a row; None without rows."""
        return self.steps / self.rows if self.rows else None

    @property
    def passed_share(self) -> float | None:
        """Share of the passed checks; None without checks."""
        return self.passed_rows / self.checked_rows if self.checked_rows else None


def read_tool_use(report_queries: ReportQueries, since: date | None) -> ToolUse:
    """The use of tools by the rows that ended since a day; None is from the beginning."""
    lines = report_queries.tool_sums(since=since)
    is_known = not any(line["unknown_rows"] for line in lines)
    known = sum(line["known_cost_pico"] for line in lines)
    return ToolUse(
        rows=_rows(lines),
        steps=sum(line["steps"] for line in lines),
        cost_pico=known if is_known else None,
        known_cost_pico=known,
        checked_rows=_rows([line for line in lines if line["check_passed"] is not None]),
        passed_rows=_rows([line for line in lines if line["check_passed"]]),
        tools=_tools(lines),
    )


def tool_use_json(use: ToolUse) -> dict[str, Any]:
    """The use of tools as a JSON object; unknown values are None."""
    mean_pico = round(use.cost_pico / use.rows) if use.cost_pico is not None and use.rows else None
    return {
        "rows": use.rows,
        "steps": use.steps,
        "steps_per_row": use.steps_per_row,
        "cost_usd": pico_to_usd(use.cost_pico),
        "known_cost_usd": pico_to_usd(use.known_cost_pico),
        "cost_usd_per_row": pico_to_usd(mean_pico),
        "checked_rows": use.checked_rows,
        "passed_rows": use.passed_rows,
        "passed_share": use.passed_share,
        "tools": [{"tool": one.name, "rows": one.rows, "denied_rows": one.denied_rows} for one in use.tools],
    }


def _rows(lines: Sequence[Mapping[str, Any]]) -> int:
    return sum(line["rows"] for line in lines)


def _tools(lines: Sequence[Mapping[str, Any]]) -> list[ToolLine]:
    called, denied = dict[str, int](), dict[str, int]()
    for line in lines:
        for names, into in ((line["tools_called"], called), (line["tools_denied"], denied)):
            for name in set(_names(names)):
                into[name] = into.get(name, 0) + line["rows"]
    found = [
        ToolLine(name=name, rows=called.get(name, 0), denied_rows=denied.get(name, 0))
        for name in {**called, **denied}
    ]
    return sorted(found, key=lambda one: (-one.rows, one.name))


def _names(text: str | None) -> list[str]:
    return [] if text is None else [str(name) for name in list_in(json.loads(text))]
