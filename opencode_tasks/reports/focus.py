"""Model calls as charges of FOCUS 1.2 (https://focus.finops.org/focus-specification/v1-2). Pure.

A charge is one model call, so that the file adds up to the ledger exactly: amounts are decimals with
every digit. A call whose cost nobody knows has empty cost columns. Columns that begin with ``x_`` are
ours, as the specification asks of what it does not name.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from opencode_tasks.domain.records import TOKEN_COLUMNS

Charge = Mapping[str, Any]
PICO_DIGITS = 12
_RUNNABLE = ("=", "+", "-", "@", "\t", "\r")


def focus_csv(charges: Iterable[Charge]) -> Iterator[str]:
    """The lines of the file, a header first. A cell that a spreadsheet would run gets a ``'`` before it."""
    yield _csv_line(COLUMNS)
    for charge in charges:
        yield _csv_line(_defused(tell(charge)) for tell in COLUMNS.values())


def _csv_line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _defused(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_RUNNABLE) else cell


def decimal_usd(pico: int | None) -> str:
    """Pico-dollars as a decimal number of dollars with every digit that is not 0; empty for None."""
    if pico is None:
        return ""
    text = f"{Decimal(pico).scaleb(-PICO_DIGITS):.{PICO_DIGITS}f}"
    return text.rstrip("0").rstrip(".")


def _hour(charge: Charge, more: int = 0) -> str:
    moment = charge["ended_at"] or datetime.combine(charge["day"], datetime.min.time(), UTC)
    return _iso(moment.replace(minute=0, second=0, microsecond=0) + timedelta(hours=more))


def _month(charge: Charge, more: int = 0) -> str:
    moment = charge["ended_at"] or datetime.combine(charge["day"], datetime.min.time(), UTC)
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return _iso((first + timedelta(days=32)).replace(day=1) if more else first)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _provider(charge: Charge) -> str:
    return str(charge["model"] or "unknown").partition("/")[0]


def _model(charge: Charge) -> str:
    return str(charge["model"] or "unknown").partition("/")[2] or "unknown"


def _tokens(charge: Charge) -> str:
    counts = [charge[name] for name in TOKEN_COLUMNS]
    return "" if None in counts else str(sum(counts))


def _tags(charge: Charge) -> str:
    told = {"run": charge["run"], "row": charge["row_id"], "deployment": charge["deployment"]}
    # A label of the user's may have the same name.
    ours = {f"opencode-tasks/{name}": value for name, value in told.items() if value is not None}
    return json.dumps((charge["labels"] or {}) | ours)


def _list_cost(charge: Charge) -> str:
    computed = charge["cost_computed_pico"]
    return decimal_usd(charge["cost_pico"] if computed is None else computed)


def _cost(charge: Charge) -> str:
    return decimal_usd(charge["cost_pico"])


def _always(text: str) -> Callable[[Charge], str]:
    return lambda _: text


def _given(name: str) -> Callable[[Charge], str]:
    return lambda charge: "" if charge[name] is None else str(charge[name])


COLUMNS: dict[str, Callable[[Charge], str]] = {
    "BilledCost": _cost,
    "BillingAccountId": _provider,
    "BillingAccountName": _provider,
    "BillingCurrency": _always("USD"),
    "BillingPeriodStart": _month,
    "BillingPeriodEnd": lambda charge: _month(charge, 1),
    "ChargeCategory": _always("Usage"),
    "ChargeClass": _always(""),
    "ChargeDescription": lambda charge: f"Model call to {charge['model']}",
    "ChargeFrequency": _always("Usage-Based"),
    "ChargePeriodStart": _hour,
    "ChargePeriodEnd": lambda charge: _hour(charge, 1),
    "ConsumedQuantity": _tokens,
    "ConsumedUnit": _always("tokens"),
    "ContractedCost": _cost,
    "EffectiveCost": _cost,
    "InvoiceIssuerName": _provider,
    "ListCost": _list_cost,
    "PricingCategory": _always("Standard"),
    "PricingQuantity": _tokens,
    "PricingUnit": _always("tokens"),
    "ProviderName": _provider,
    "PublisherName": _provider,
    "ResourceId": _given("session_id"),
    "ResourceType": _always("opencode session"),
    "ServiceCategory": _always("AI and Machine Learning"),
    "ServiceSubcategory": _always("Generative AI"),
    "ServiceName": _model,
    "SkuId": _given("model"),
    "SkuPriceId": _given("model"),
    "SubAccountId": _given("deployment"),
    "SubAccountName": _given("deployment"),
    "Tags": _tags,
    **{"x_" + "".join(word.title() for word in name.split("_")): _given(name) for name in TOKEN_COLUMNS},
    "x_CostSource": _given("cost_source"),
    "x_PriceSource": _given("price_source"),
    "x_StepId": _given("step_id"),
    "x_Origin": _given("origin"),
}
