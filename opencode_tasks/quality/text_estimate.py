"""Estimate of rows that resemble no row of the ledger: from their texts, and the price of the model. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from opencode_tasks.domain.max_cost import MILLION, Price
from opencode_tasks.domain.money import PICO_PER_USD
from opencode_tasks.quality.estimate import Estimate, Range

# A token of English has four to five bytes, one of other languages, of numbers and of code two to four.
_FEWEST_BYTES, _BYTES, _MOST_BYTES = 2, 4, 6


class SentText(NamedTuple):
    """Length of everything that is sent for a row."""

    chars: int
    bytes: int


def estimate_texts(texts: Sequence[SentText], price: Price | None, *, calls: int) -> Estimate:
    """Estimate rows with texts of these lengths.

    The length of the answers is unknown: the range goes from answers of one token to ``calls`` answers of
    the model's maximum length. Without a price the cost is None.
    """
    rows, size = len(texts), sum(text.bytes for text in texts)
    read = Range(low=size / _MOST_BYTES, expected=size / _BYTES, high=size / _FEWEST_BYTES)
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
