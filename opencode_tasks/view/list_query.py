"""Filters, order and page of a list as the query string of its address, so that it can be bookmarked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from opencode_tasks.domain.money import usd_to_pico
from opencode_tasks.domain.records import RowStatus
from opencode_tasks.ledger import SORT_COLUMNS, RowFilter, RowOrder
from opencode_tasks.ledger.progress import ROW_STATUSES
from opencode_tasks.view.run_view import RunView

PAGE_ROWS = 100
# No database has more rows, and both take it as an offset.
MAX_PAGE = 10**9
FIELD, LABEL = "value.", "label."


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """A list of rows. ``params`` are its valid parameters; ``faults`` has a line for each invalid one."""

    params: Mapping[str, str]
    wanted: RowFilter
    order: RowOrder
    page: int
    faults: tuple[str, ...]

    @property
    def span(self) -> range:
        """The places of its rows."""
        return range((self.page - 1) * PAGE_ROWS, self.page * PAGE_ROWS)

    def link(self, path: str = "/", **changes: Any) -> str:
        """The address of a path with these parameters; None removes one."""
        params = {**self.params, **changes}
        query = urlencode({name: value for name, value in params.items() if value not in (None, "")})
        return f"{path}?{query}" if query else path

    @property
    def clear_link(self) -> str:
        """The address of the list of all rows, in the same order."""
        return self.link("/", **dict.fromkeys(name for name in self.params if name not in ("run", "sort")))

    def sort_link(self, column: str) -> str:
        """The address of the list sorted by a column; by the same column again, in the other direction."""
        return self.link(sort=f"-{column}" if self.params.get("sort") == column else column, page=None)


def read_query(given: Mapping[str, str], run: RunView) -> ListQuery:
    """Read the parameters of an address. Unknown ones are left out, invalid ones are faults."""
    params: dict[str, str] = {"run": given["run"]} if given.get("run") else {}
    faults: list[str] = []

    def text(name: str) -> str | None:
        value = given.get(name) or None
        if value is not None:
            params[name] = value
        return value

    def number(name: str, title: str) -> float | None:
        value = given.get(name, "").strip()
        if not value:
            return None
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not math.isfinite(found) or not 0 <= found <= 10**6:
            faults.append(f"{title}: {value!r} is not a number from 0 to 1,000,000")
            return None
        params[name] = value
        return found

    status: RowStatus | None = next((one for one in ROW_STATUSES if one == given.get("status")), None)
    if status is not None:
        params["status"] = status
    cost = number("cost", "cost")
    gold = text("gold") if given.get("gold") in ("wrong", "open") else None
    reviewed = text("reviewed") if given.get("reviewed") in ("yes", "no") else None
    wanted = RowFilter(
        text=text("q"),
        status=status,
        error_type=text("error"),
        values={one.name: value for one in run.fields if (value := text(FIELD + one.name)) is not None},
        labels={name: value for name in run.label_names if (value := text(LABEL + name)) is not None},
        has_gold_mismatch=gold == "wrong",
        has_open_mismatch=gold == "open",
        min_cost_pico=None if cost is None else usd_to_pico(cost),
        agreement_below=number("agreement", "agreement") if run.has_agreement else None,
        is_reviewed=None if reviewed is None else reviewed == "yes",
    )
    order = _order(given.get("sort", ""), run)
    if order != RowOrder():
        params["sort"] = given["sort"]
    page = given.get("page", "1")
    number_of_page = int(page) if page.isascii() and page.isdigit() and len(page) < len(str(MAX_PAGE)) else 1
    if number_of_page > 1:
        params["page"] = page
    return ListQuery(
        params=params, wanted=wanted, order=order, page=max(1, number_of_page), faults=tuple(faults)
    )


def _order(text: str, run: RunView) -> RowOrder:
    column = text.removeprefix("-")
    is_descending = text.startswith("-")
    if column in SORT_COLUMNS:
        is_number = column == "answer" and run.has_schema and run.fields[0].kind == "number"
        return RowOrder(column=column, is_descending=is_descending, is_number=is_number)
    field = next((one for one in run.fields if run.is_object and column == FIELD + one.name), None)
    if field is None:
        return RowOrder()
    return RowOrder(
        column=field.name, is_descending=is_descending, is_field=True, is_number=field.kind == "number"
    )
