"""Estimate of rows that resemble no row of the ledger: from their texts, and the price of the model. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from opencode_tasks.domain.max_cost import MILLION, Price
from opencode_tasks.domain.money import PICO_PER_USD
from opencode_tasks.quality.estimate import Estimate, Range

# A token of English has four to five bytes, one of other languages, of numbers and of code two to four.
_FEWEST_BYTES, _BYTES, _MOST_BYTES = 2, 4, 6
# Tokens around an answer of known length: a line break and the end, or also the fences of a code block.
_FEW_MORE, _MANY_MORE = 2, 12


class SentText(NamedTuple):
    """Length of everything that is sent for a row."""

    chars: int
    bytes: int


def estimate_texts(
    texts: Sequence[SentText],
    price: Price | None,
    *,
    calls: int,
    answer_bytes: int | None = None,
    may_reason: bool = False,
) -> Estimate:
    """Estimate rows with texts of these lengths.

    ``answer_bytes`` is the length of the longest valid answer, None if it is unknown: the range then goes
    from answers of one token to ``calls`` answers of the model's maximum length. With it, each row is
    expected to have one answer of this length, the range goes to ``calls`` of them, and the maximum length
    is in ``ceiling_usd``. ``may_reason``: the model can reason. Without a price the cost is None.
    """
    rows, size = len(texts), sum(text.bytes for text in texts)
    read = Range(low=size / _MOST_BYTES, expected=size / _BYTES, high=size / _FEWEST_BYTES)
    if answer_bytes is not None:
        return _of_known_answers(texts, read, price, calls, answer_bytes, may_reason=may_reason)
    if price is None:
        return Estimate(rows=rows, source="text", source_rows=0, input_tokens=read)
    low_pico = (read.low * price.input + rows * price.output) / MILLION
    high_pico = sum(price.max_cost(text.bytes, calls=calls) for text in texts)
    return Estimate(
        rows=rows,
        source="text",
        source_rows=0,
        input_tokens=read,
        output_tokens=Range(low=rows, expected=None, high=rows * price.max_output_tokens * calls),
        cost_usd=Range(low=low_pico / PICO_PER_USD, expected=None, high=high_pico / PICO_PER_USD),
    )


def _of_known_answers(
    texts: Sequence[SentText],
    read: Range,
    price: Price | None,
    calls: int,
    answer_bytes: int,
    *,
    may_reason: bool,
) -> Estimate:
    """Estimate of rows whose longest valid answer is known. Reasoning tokens are in no range."""
    rows = len(texts)
    usual = math.ceil(answer_bytes / _BYTES) + _FEW_MORE
    longest = math.ceil(answer_bytes / _FEWEST_BYTES) + _MANY_MORE
    estimate = Estimate(
        rows=rows,
        source="text",
        source_rows=0,
        input_tokens=read,
        output_tokens=Range(low=rows, expected=rows * usual, high=rows * longest * calls),
        has_short_answers=True,
        may_reason=may_reason,
    )
    if price is None:
        return estimate
    low = (read.low * price.input + rows * price.output) / MILLION
    expected = ((read.expected or 0.0) * price.input + rows * usual * price.output) / MILLION
    short = replace(price, max_output_tokens=min(longest, price.max_output_tokens))
    high = sum(
        short.max_cost(math.ceil(text.bytes / _FEWEST_BYTES), calls=calls, frame_tokens=0) for text in texts
    )
    ceiling = sum(price.max_cost(text.bytes, calls=calls) for text in texts)
    return replace(
        estimate,
        cost_usd=Range(
            low=low / PICO_PER_USD, expected=expected / PICO_PER_USD, high=max(high, expected) / PICO_PER_USD
        ),
        ceiling_usd=ceiling / PICO_PER_USD,
    )
