"""FOCUS charges, dates of reports, and charts: what needs no ledger."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.errors import InputError
from opencode_tasks.reports import charts
from opencode_tasks.reports.focus import COLUMNS, decimal_usd, focus_csv
from opencode_tasks.reports.lines import read_since

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


def charges(*changed: dict[str, Any]) -> list[dict[str, str]]:
    text = "".join(focus_csv([CHARGE | one for one in changed]))
    return list(csv.DictReader(io.StringIO(text)))


def test_a_charge_is_an_hour_of_a_month_with_exact_money() -> None:
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


def test_what_is_unknown_is_empty_and_never_0() -> None:
    (charge,) = charges({"cost_pico": None, "cost_source": "unpriced", "output_tokens": None})
    assert (charge["BilledCost"], charge["ConsumedQuantity"], charge["x_OutputTokens"]) == ("", "", "")


def test_a_cell_that_a_spreadsheet_would_run_is_defused() -> None:
    (charge,) = charges({"deployment": "=cmd()"})
    assert charge["SubAccountId"] == "'=cmd()"


def test_a_label_keeps_its_name_beside_our_own_tags() -> None:
    (charge,) = charges({"labels": {"run": "blue"}})
    assert json.loads(charge["Tags"]) == {
        "run": "blue",
        "opencode-tasks/run": "r-1",
        "opencode-tasks/row": "=1+1",
    }


def test_the_specifications_mandatory_columns_are_there() -> None:
    mandatory = (
        *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd"),
        *("BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd"),
        *("ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost"),
        *("PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory"),
        "ServiceName",
    )
    assert set(mandatory) <= set(COLUMNS)


@given(st.integers(min_value=0, max_value=2**62))
def test_money_is_written_with_every_digit(pico: int) -> None:
    assert Decimal(decimal_usd(pico)) * 10**12 == pico


def test_a_report_begins_on_a_day_or_some_days_ago() -> None:
    today = date(2026, 11, 25)
    assert read_since(None, today) is None
    assert read_since("2026-11-01", today) == date(2026, 11, 1)
    assert read_since("7d", today) == date(2026, 11, 19)
    for wrong in ("yesterday", "0d", "2026-13-01"):
        with pytest.raises(InputError, match="--since"):
            read_since(wrong, today)


HOSTILE = "</text><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


@pytest.mark.parametrize("size", charts.SIZES.values(), ids=charts.SIZES)
def test_names_of_the_data_are_text_in_a_drawing(size: charts.Size) -> None:
    drawings = [
        charts.over_time(
            [{"day": f"2026-11-{day:02}", "model": HOSTILE, "usd": 0.5} for day in range(1, 9)], size
        ),
        charts.bars([{"name": f"{HOSTILE} {n}", "usd": 10.0**-n} for n in range(20)], size),
        charts.tokens([{"name": HOSTILE, "kind": kind, "tokens": 5} for kind in charts.TOKEN_KINDS], size),
    ]
    for drawing in drawings:
        root = ET.fromstring(drawing)
        names = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert names <= {"svg", "g", "path", "rect", "text", "line", "defs", "clipPath", "title", "tspan"}
        attributes = {name for element in root.iter() for name in element.attrib}
        assert not [name for name in attributes if name.startswith("on") or "href" in name]


def test_a_day_without_spending_is_shown_as_one() -> None:
    lines = [{"day": day, "model": "m", "usd": 1.0} for day in ("2026-11-01", "2026-11-04")]
    assert "02 Nov" in charts.over_time(lines, charts.SIZES["wide"])
