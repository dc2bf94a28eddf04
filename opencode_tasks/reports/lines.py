"""What was spent, a line for each group: the data of ``opencode-tasks report``."""

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

COUNTED = ("rows", "steps", *TOKEN_COLUMNS)
MONEY = ("cost", "known_cost", "failed_cost")


def report_lines(
    report_queries: ReportQueries, by: Sequence[Grouping], *, since: date | None = None
) -> list[dict[str, Any]]:
    """A dict for each group: its names, ``rows``, ``steps``, five token counts, three costs in USD.

    ``cost_usd`` and a token count are None where a part of them is unknown, ``known_cost_usd`` is the
    sum of the known parts, ``failed_cost_usd`` what went into attempts that did not complete.
    """
    return [_line(found, by) for found in report_queries.spent(by, since=since)]


def read_since(text: str | None, today: date) -> date | None:
    """The first day of a report. Raises InputError for what is neither a date nor a number of days."""
    if text is None:
        return None
    if (days := re.fullmatch(r"(\d{1,5})d", text)) is not None and int(days[1]):
        return today - timedelta(days=int(days[1]) - 1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(
            (f"--since: {text!r} is neither a day like 2026-11-01 nor a number of days like 30d",)
        ) from None


def group_columns(by: Sequence[Grouping]) -> list[str]:
    """The columns that name a group: those of ``by``, a label's value after its name."""
    return [part for name in by for part in (("label", "label_value") if name == "label" else (name,))]


def _line(found: Mapping[str, Any], by: Sequence[Grouping]) -> dict[str, Any]:
    names = {name: _plain(found[name]) for name in group_columns(by)}
    counts = {name: found[name] for name in COUNTED}
    return names | counts | {f"{name}_usd": pico_to_usd(found[f"{name}_pico"]) for name in MONEY}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def lines_frame(lines: Sequence[Mapping[str, Any]], by: Sequence[Grouping]) -> pd.DataFrame:
    """The lines as a frame; without lines its columns alone. Unknown is null."""
    columns = [*group_columns(by), *COUNTED, *(f"{name}_usd" for name in MONEY)]
    frame: Any = pd.DataFrame(list(lines), columns=pd.Index(columns))
    kinds: Any = dict.fromkeys(COUNTED, "Int64") | {f"{name}_usd": "Float64" for name in MONEY}
    return frame.astype(kinds | dict.fromkeys(group_columns(by), "string"))
