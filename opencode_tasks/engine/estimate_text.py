"""Lines and JSON that describe an estimate. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.engine.progress_text import count_of, duration
from opencode_tasks.quality.estimate import RANGES, Estimate, Range

CERTAINTY = "8 of 10 times the cost is in its range"


def estimate_lines(estimate: Estimate, *, max_cost: float | None = None) -> list[str]:
    """The estimate for people, and whether a cost limit in USD may be too low for it; None for no limit."""
    lines = [f"estimate for {count_of(estimate.rows)}, {_source(estimate)}:"]
    if estimate.cost_usd is not None:
        lines.append(f"  cost: {_range(estimate.cost_usd, _usd)}")
    else:
        lines.append("  cost: unknown, because the price of the model or the usage is")
    tokens = {"input": estimate.input_tokens, "output": estimate.output_tokens}
    known = [f"{_range(value, _count)} {name}" for name, value in tokens.items() if value is not None]
    if known:
        lines.append(f"  tokens: {'; '.join(known)}")
    if estimate.seconds is not None:
        lines.append(f"  time: {_range(estimate.seconds, duration)}")
    if estimate.may_reason:
        lines.append(
            "  reasoning: the model can reason; if it does, its reasoning tokens are added, and their number "
            "is unknown before a run"
        )
    if estimate.ceiling_usd is not None:
        lines.append(
            f"  theoretical maximum: {_usd(estimate.ceiling_usd)}, if every answer had the maximum length "
            "that the model allows"
        )
    if max_cost is not None and estimate.cost_usd is not None:
        lines.append(_budget_line(estimate, estimate.cost_usd, max_cost))
    return lines


def estimate_json(estimate: Estimate | None) -> dict[str, Any] | None:
    """The estimate as a JSON object; None without one."""
    if estimate is None:
        return None
    return {
        "rows": estimate.rows,
        "source": estimate.source,
        "source_rows": estimate.source_rows,
        **{name: _json(getattr(estimate, name)) for name in RANGES},
        "ceiling_usd": estimate.ceiling_usd,
        "has_short_answers": estimate.has_short_answers,
        "may_reason": estimate.may_reason,
    }


def _source(estimate: Estimate) -> str:
    match estimate.source:
        case "ledger":
            return f"from {count_of(estimate.source_rows)} of earlier runs ({CERTAINTY})"
        case "pilot":
            return f"from {count_of(estimate.source_rows)} of the pilot ({CERTAINTY})"
        case "text" if estimate.has_short_answers:
            return (
                "from the texts, the price and the longest answer that the schema or the choices allow "
                "(--pilot 20 gives a narrower range)"
            )
        case "text":
            return (
                "from the texts and the price alone: from answers of one token to the longest ones "
                "(--pilot 20 gives a narrower range)"
            )


def _budget_line(estimate: Estimate, cost: Range, max_cost: float) -> str:
    most = cost.high if not estimate.may_reason else max(cost.high, estimate.ceiling_usd or 0.0)
    if cost.low > max_cost:
        verdict = "is too low for these rows"
    elif most > max_cost:
        verdict = "may be too low for these rows"
    else:
        verdict = "is enough for these rows"
    return f"  --max-cost: {_usd(max_cost)} {verdict}"


def _range(value: Range, show: Callable[[float], str]) -> str:
    low, high = show(value.low), show(value.high)
    if low == high:
        return low
    expected = "" if value.expected is None else f", expected {show(value.expected)}"
    return f"{low} to {high}{expected}"


def _usd(amount: float) -> str:
    return format_usd(usd_to_pico(amount))


def _count(tokens: float) -> str:
    return f"{tokens:,.0f}"


def _json(value: Range | None) -> dict[str, float | None] | None:
    return None if value is None else {"low": value.low, "expected": value.expected, "high": value.high}
