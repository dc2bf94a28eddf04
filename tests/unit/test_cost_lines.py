"""Reports without a ledger: FOCUS charges, the first day of a report, and charts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.errors import InputError
from opencode_tasks.frames.csv_file import protected
from opencode_tasks.frames.write_file import encoded
from opencode_tasks.reports.charts import (
    MAX_BARS,
    SIZES,
    TOKEN_KINDS,
    Chart,
    Drawing,
    Text,
    cost_by_name,
    cost_over_time,
    tokens_by_model,
)
from opencode_tasks.reports.cost_lines import read_since
from opencode_tasks.reports.focus import COLUMNS, decimal_usd, focus_csv
from opencode_tasks.reports.scales import compact_count, fit_text, text_width, ticks_covering, usd_tick

CHARGE: dict[str, Any] = {
    "ended_at": datetime(2026, 12, 31, 23, 59, 58, tzinfo=UTC),
    "day": date(2026, 12, 31),
    "run": "r-1",
    "row_id": "=1+1",
    "deployment": None,
    "model": "openrouter/qwen/qwen3",
    "agent": "a",
    "session_id": "ses_1",
    "step_id": "prt_1",
    "input_tokens": 1,
    "cache_read_tokens": 2,
    "cache_write_tokens": 3,
    "output_tokens": 4,
    "reasoning_tokens": 5,
    "cost_pico": 12,
    "cost_source": "reported",
    "cost_computed_pico": None,
    "price_source": None,
    "labels": {"team": "a"},
    "origin": "annotate",
}


def charges(*changes: dict[str, Any]) -> list[dict[str, str]]:
    text = "".join(focus_csv([CHARGE | change for change in changes]))
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_charge_period_is_an_hour_and_cost_is_exact() -> None:
    (charge,) = charges({})
    assert (charge["ChargePeriodStart"], charge["ChargePeriodEnd"]) == (
        "2026-12-31T23:00:00Z",
        "2027-01-01T00:00:00Z",
    )
    assert (charge["BillingPeriodStart"], charge["BillingPeriodEnd"]) == (
        "2026-12-01T00:00:00Z",
        "2027-01-01T00:00:00Z",
    )
    assert charge["BilledCost"] == charge["EffectiveCost"] == charge["ListCost"] == "0.000000000012"
    assert (charge["ConsumedQuantity"], charge["PricingUnit"]) == ("15", "tokens")
    assert (charge["ProviderName"], charge["ServiceName"], charge["SkuId"]) == (
        "openrouter",
        "qwen/qwen3",
        "openrouter/qwen/qwen3",
    )
    assert (charge["x_InputTokens"], charge["x_ReasoningTokens"]) == ("1", "5")


def test_unknown_values_are_empty() -> None:
    (charge,) = charges({"cost_pico": None, "cost_source": "unpriced", "output_tokens": None})
    assert (charge["BilledCost"], charge["ConsumedQuantity"], charge["x_OutputTokens"]) == ("", "", "")


@pytest.mark.parametrize("name", ["=cmd()", "-2+3", "-5", "@x", "\r=1", "", None])
def test_text_is_escaped_as_in_output(name: str | None) -> None:
    (charge,) = charges({"deployment": name})
    written = encoded(protected(pd.DataFrame({"name": [name], "other": ["x"]})), "csv").decode()
    (row,) = csv.DictReader(io.StringIO(written, newline=""))
    assert charge["SubAccountId"] == row["name"]


def test_label_named_like_a_tag_is_kept() -> None:
    (charge,) = charges({"labels": {"run": "blue"}})
    assert json.loads(charge["Tags"]) == {
        "run": "blue",
        "opencode-tasks/run": "r-1",
        "opencode-tasks/row": "=1+1",
    }


def test_mandatory_columns_of_focus_exist() -> None:
    mandatory = (
        *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd"),
        *("BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd"),
        *("ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost"),
        *("PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory"),
        "ServiceName",
    )
    assert set(mandatory) <= set(COLUMNS)


@given(st.integers(min_value=0, max_value=2**62))
def test_cost_is_written_with_all_digits(pico: int) -> None:
    assert Decimal(decimal_usd(pico)) * 10**12 == pico


def test_since_is_a_date_or_a_number_of_days() -> None:
    today = date(2026, 11, 25)
    assert read_since(None, today) is None
    assert read_since("2026-11-01", today) == date(2026, 11, 1)
    assert read_since("7d", today) == date(2026, 11, 19)
    for invalid in ("yesterday", "0d", "2026-13-01"):
        with pytest.raises(InputError, match="--since"):
            read_since(invalid, today)


# Charts

NAMES = st.text(min_size=1, max_size=80)
COSTS = st.integers(min_value=1, max_value=10**16)


def box(label: Text) -> tuple[float, float, float, float]:
    """The estimated left, top, right and bottom of a label."""
    width = text_width(label.text)
    left = label.x - {"start": 0.0, "middle": width / 2, "end": width}[label.anchor]
    return left, label.y - 10, left + width, label.y + 2


def labels_of(drawing: Drawing) -> list[Text]:
    return [*drawing.texts, *(label for mark in drawing.marks for label in mark.texts)]


def assert_readable(chart: Chart) -> None:
    """No label overlaps another one, and every part of a bar is inside of the drawing."""
    assert list(chart.drawings) == list(SIZES)
    for drawing in chart.drawings.values():
        boxes = [(box(label), label) for label in labels_of(drawing)]
        for (one, first), (two, second) in combinations(boxes, 2):
            is_apart = one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]
            assert is_apart, (first, second)
        for part in (part for mark in drawing.marks for part in mark.parts):
            assert part.x >= 0
            assert part.y >= 0
            assert part.x + part.width <= drawing.width + 0.01
            assert part.y + part.height <= drawing.height


def days(first: date, costs: Sequence[int]) -> Iterator[dict[str, Any]]:
    for number, cost in enumerate(costs):
        yield {"day": first + timedelta(days=number), "model": "m", "cost_pico": cost}


@given(st.lists(st.tuples(st.dates(date(2020, 1, 1), date(2029, 12, 31)), NAMES, COSTS), min_size=1))
def test_labels_of_cost_over_time_do_not_overlap(lines: list[tuple[date, str, int]]) -> None:
    chart = cost_over_time([{"day": day, "model": name, "cost_pico": cost} for day, name, cost in lines])
    assert_readable(chart)


@given(st.dictionaries(NAMES, COSTS, min_size=1, max_size=20))
def test_labels_of_cost_by_name_do_not_overlap(costs: dict[str, int]) -> None:
    assert_readable(cost_by_name([{"name": n, "cost_pico": cost} for n, cost in costs.items()], title="t"))


@given(st.lists(st.tuples(NAMES, st.sampled_from(TOKEN_KINDS), COSTS), min_size=1, max_size=30))
def test_labels_of_tokens_do_not_overlap(lines: list[tuple[str, str, int]]) -> None:
    chart = tokens_by_model([{"name": name, "kind": kind, "tokens": count} for name, kind, count in lines])
    assert_readable(chart)


@pytest.mark.parametrize(
    ("count", "columns", "unit"), [(1, 1, "day"), (60, 60, "day"), (400, 58, "week"), (3000, 99, "month")]
)
def test_days_are_combined_if_they_are_too_many(count: int, columns: int, unit: str) -> None:
    drawing = cost_over_time(list(days(date(2026, 3, 1), [10**12] * count))).drawings["wide"]
    assert len(drawing.marks) == columns
    assert drawing.texts[0].text == f"USD per {unit}"
    assert drawing.summary.startswith(f"${count:,}.00 in {columns} {unit}")


def test_days_without_cost_have_an_empty_column() -> None:
    drawing = cost_over_time(list(days(date(2026, 11, 1), [5, 0, 0, 5]))).drawings["wide"]
    assert [len(mark.parts) for mark in drawing.marks] == [1, 0, 0, 1]
    assert [label.text for label in drawing.texts if label.text.endswith("Nov")] == [
        *("01 Nov", "02 Nov", "03 Nov", "04 Nov")
    ]


def test_column_stacks_models_by_cost_and_names_them_on_hover() -> None:
    costs = {"cheap": 10**12, "expensive": 3 * 10**12}
    lines = [{"day": date(2026, 11, 1), "model": name, "cost_pico": cost} for name, cost in costs.items()]
    chart = cost_over_time(lines)
    assert chart.legend == {0: "expensive", 1: "cheap"}
    (mark,) = chart.drawings["wide"].marks
    assert mark.hover == "2026-11-01: $4.00\nexpensive: $3.00\ncheap: $1.00"
    below, above = mark.parts
    assert (below.series, above.series) == (0, 1)
    assert below.height == pytest.approx(3 * above.height)
    assert below.y == pytest.approx(above.y + above.height)


def test_names_beyond_the_largest_are_one_bar() -> None:
    chart = cost_by_name([{"name": f"n{i}", "cost_pico": 10**12 + i} for i in range(20)], title="t")
    marks = chart.drawings["wide"].marks
    assert len(marks) == MAX_BARS + 1
    assert marks[-1].hover == "8 others: $8.00"
    assert marks[0].parts[0].series != marks[-1].parts[0].series


def test_small_values_are_visible_beside_large_ones() -> None:
    chart = cost_by_name([{"name": "a", "cost_pico": 10**18}, {"name": "b", "cost_pico": 1}], title="t")
    assert all(mark.parts[0].width >= 1 for drawing in chart.drawings.values() for mark in drawing.marks)


def test_long_names_keep_both_ends() -> None:
    name = "openrouter/organisation/a-model-with-a-very-long-name-preview-2026"
    shown = fit_text(name, 120)
    begin, end = shown.split("…")
    assert name.startswith(begin)
    assert name.endswith(end)
    assert text_width(shown) <= 120
    assert fit_text("short", 120) == "short"


def test_ticks_are_round_and_have_the_decimals_that_they_need() -> None:
    ticks = ticks_covering(161_000_000_000, 6)
    assert [usd_tick(tick, ticks.step) for tick in ticks] == ["$0", "$0.05", "$0.10", "$0.15", "$0.20"]
    assert usd_tick(2 * 10**15, 10**15) == "$2,000"
    assert usd_tick(3, 1) == "$0.000000000003"
    assert [compact_count(value) for value in (0, 999, 1234, 999_999, 34_500_000)] == [
        *("0", "999", "1.23k", "1M", "34.5M")
    ]
