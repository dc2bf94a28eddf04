"""Model calls as charges of FOCUS 1.2 (https://focus.finops.org/focus-specification/v1-2). Pure.

A charge is one model call, and amounts are decimal numbers with all digits, so the sum of the file is
exactly the sum of the ledger. The cost columns of a call with unknown cost are empty. Columns that the
specification does not define begin with ``x_``, as it requires.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.frames.csv_text import csv_line, protected_cell

Charge = Mapping[str, Any]
PICO_DIGITS = 12


def focus_csv(charges: Iterable[Charge]) -> Iterator[str]:
    """Yield the lines of the CSV file, the header first."""
    yield csv_line(COLUMNS)
    for charge in charges:
        cells = (value_of(charge) for value_of in COLUMNS.values())
        yield csv_line(protected_cell(cell) if cell else None for cell in cells)


def decimal_usd(pico: int | None) -> str:
    """Return pico-dollars as a decimal number of dollars with all digits; "" for None."""
    if pico is None:
        return ""
    text = f"{Decimal(pico).scaleb(-PICO_DIGITS):.{PICO_DIGITS}f}"
    return text.rstrip("0").rstrip(".")


def _hour(charge: Charge, hours_later: int = 0) -> str:
    hour = _end_of(charge).replace(minute=0, second=0, microsecond=0)
    return _iso_time(hour + timedelta(hours=hours_later))


def _month(charge: Charge) -> str:
    return _iso_time(_start_of_month(charge))


def _next_month(charge: Charge) -> str:
    return _iso_time((_start_of_month(charge) + timedelta(days=32)).replace(day=1))


def _start_of_month(charge: Charge) -> datetime:
    return _end_of(charge).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _end_of(charge: Charge) -> datetime:
    """Return the time at which the call ended; the start of its day if the time is unknown."""
    return charge["ended_at"] or datetime.combine(charge["day"], datetime.min.time(), UTC)


def _iso_time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _provider(charge: Charge) -> str:
    return str(charge["model"] or "unknown").partition("/")[0]


def _model(charge: Charge) -> str:
    return str(charge["model"] or "unknown").partition("/")[2] or "unknown"


def _tokens(charge: Charge) -> str:
    counts = [charge[name] for name in TOKEN_COLUMNS]
    return "" if None in counts else str(sum(counts))


def _tags(charge: Charge) -> str:
    tags = {"run": charge["run"], "row": charge["row_id"], "deployment": charge["deployment"]}
    # The prefix keeps them apart from labels with the same name.
    prefixed = {f"opencode-tasks/{name}": value for name, value in tags.items() if value is not None}
    return json.dumps((charge["labels"] or {}) | prefixed)


def _list_cost(charge: Charge) -> str:
    computed = charge["cost_computed_pico"]
    return decimal_usd(charge["cost_pico"] if computed is None else computed)


def _cost(charge: Charge) -> str:
    return decimal_usd(charge["cost_pico"])


def _constant(text: str) -> Callable[[Charge], str]:
    return lambda _: text


def _text_of(name: str) -> Callable[[Charge], str]:
    return lambda charge: "" if charge[name] is None else str(charge[name])


COLUMNS: dict[str, Callable[[Charge], str]] = {
    "BilledCost": _cost,
    "BillingAccountId": _provider,
    "BillingAccountName": _provider,
    "BillingCurrency": _constant("USD"),
    "BillingPeriodStart": _month,
    "BillingPeriodEnd": _next_month,
    "ChargeCategory": _constant("Usage"),
    "ChargeClass": _constant(""),
    "ChargeDescription": lambda charge: f"Model call to {charge['model']}",
    "ChargeFrequency": _constant("Usage-Based"),
    "ChargePeriodStart": _hour,
    "ChargePeriodEnd": lambda charge: _hour(charge, 1),
    "ConsumedQuantity": _tokens,
    "ConsumedUnit": _constant("tokens"),
    "ContractedCost": _cost,
    "EffectiveCost": _cost,
    "InvoiceIssuerName": _provider,
    "ListCost": _list_cost,
    "PricingCategory": _constant("Standard"),
    "PricingQuantity": _tokens,
    "PricingUnit": _constant("tokens"),
    "ProviderName": _provider,
    "PublisherName": _provider,
    "ResourceId": _text_of("session_id"),
    "ResourceType": _constant("opencode session"),
    "ServiceCategory": _constant("AI and Machine Learning"),
    "ServiceSubcategory": _constant("Generative AI"),
    "ServiceName": _model,
    "SkuId": _text_of("model"),
    "SkuPriceId": _text_of("model"),
    "SubAccountId": _text_of("deployment"),
    "SubAccountName": _text_of("deployment"),
    "Tags": _tags,
    **{"x_" + "".join(word.title() for word in name.split("_")): _text_of(name) for name in TOKEN_COLUMNS},
    "x_CostSource": _text_of("cost_source"),
    "x_PriceSource": _text_of("price_source"),
    "x_StepId": _text_of("step_id"),
    "x_Origin": _text_of("origin"),
}
