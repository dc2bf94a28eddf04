"""Lines of a cost report, one for each group: the data of ``opencode-tasks report``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import pandas as pd

from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Grouping, ReportQueries

COUNTS = ("rows", "steps", *TOKEN_COLUMNS)
COSTS = ("cost", "known_cost", "failed_cost")


def report_lines(
    report_queries: ReportQueries, by: Sequence[Grouping], *, since: date | None = None
) -> list[dict[str, Any]]:
    """Return a dict for each group: its names, ``rows``, ``steps``, five token counts and three costs.

    ``cost_usd`` and the token counts are None if a part of them is unknown. ``known_cost_usd`` is the sum
    of the known costs, ``failed_cost_usd`` the cost of attempts that did not complete. ``since`` is the
    first day; None starts at the first day of the ledger.
    """
    return [_line(sums, by) for sums in report_queries.spent(by, since=since)]


def read_since(text: str | None, today: date) -> date | None:
    """Return the first day of a report from a date such as 2026-11-01 or a number of days such as 30d.

    ``30d`` is the last 30 days, today included. Returns None for None. Raises InputError for other text.
    """
    if text is None:
        return None
    if (days := re.fullmatch(r"(\d{1,5})d", text)) is not None and int(days[1]):
        return today - timedelta(days=int(days[1]) - 1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(
            (f"--since: {text!r} is not a date such as 2026-11-01 or a number of days such as 30d",)
        ) from None


def group_columns(by: Sequence[Grouping]) -> list[str]:
    """Return the columns that name a group: ``label`` has two, its name and its value."""
    return [part for name in by for part in (("label", "label_value") if name == "label" else (name,))]


def _line(sums: Mapping[str, Any], by: Sequence[Grouping]) -> dict[str, Any]:
    names = {name: _plain_value(sums[name]) for name in group_columns(by)}
    counts = {name: sums[name] for name in COUNTS}
    return names | counts | {f"{name}_usd": pico_to_usd(sums[f"{name}_pico"]) for name in COSTS}


def _plain_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def lines_frame(lines: Sequence[Mapping[str, Any]], by: Sequence[Grouping]) -> pd.DataFrame:
    """Return the lines as a frame, with its columns even if there is no line. Unknown is null."""
    columns = [*group_columns(by), *COUNTS, *(f"{name}_usd" for name in COSTS)]
    frame: Any = pd.DataFrame(list(lines), columns=pd.Index(columns))
    dtypes: Any = dict.fromkeys(COUNTS, "Int64") | {f"{name}_usd": "Float64" for name in COSTS}
    return frame.astype(dtypes | dict.fromkeys(group_columns(by), "string"))
