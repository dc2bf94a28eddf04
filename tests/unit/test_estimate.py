"""Estimates of rows from rows that ended, and from texts."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from opencode_tasks.domain.answer_shape import longest_answer_bytes
from opencode_tasks.domain.max_cost import Price
from opencode_tasks.engine.estimate_text import estimate_lines
from opencode_tasks.quality.estimate import EndedRow, Estimate, Range, added, covered_s, estimate_rows
from opencode_tasks.quality.text_estimate import SentText, estimate_texts

INPUT_PICO, OUTPUT_PICO = 1_000_000, 5_000_000
PRICE = Price(input=INPUT_PICO * 10**6, output=OUTPUT_PICO * 10**6, max_output_tokens=1000)


EMPTY = EndedRow(prompt_chars=400, input_tokens=0, output_tokens=0, cost_pico=0, duration_s=0.5)


def row(chars: int, output_tokens: int, duration_s: float = 1.0) -> EndedRow:
    read = chars // 4 + 30
    return EndedRow(
        prompt_chars=chars,
        input_tokens=read,
        output_tokens=output_tokens,
        cost_pico=read * INPUT_PICO + output_tokens * OUTPUT_PICO,
        duration_s=duration_s,
    )


def long_tailed(seed: int, rows: int) -> list[EndedRow]:
    """Rows whose lengths differ by orders of magnitude, as those of real answers do."""
    random = np.random.default_rng(seed)
    chars = random.lognormal(6, 1, rows).astype(int) + 20
    tokens = np.maximum(1, random.lognormal(4, 1, rows)).astype(int)
    return [row(int(a), int(b), float(b) / 50 + 0.3) for a, b in zip(chars, tokens, strict=True)]


def estimate(pilot: list[EndedRow], others: list[EndedRow]) -> Estimate:
    return estimate_rows([one.prompt_chars for one in others], pilot, source="pilot", in_flight=(4.0, 8.0))


@pytest.mark.parametrize(("first", "others"), [(20, 500), (50, 2000)])
def test_the_cost_of_long_tailed_rows_is_in_the_range(first: int, others: int) -> None:
    hits, widths = 0, list[float]()
    for seed in range(20):
        rows = long_tailed(seed, first + others)
        found = estimate(rows[:first], rows[first:]).cost_usd
        assert found is not None
        cost = sum(one.cost_pico or 0 for one in rows[first:]) / 1e12
        hits += found.low <= cost <= found.high
        widths.append(found.high / found.low)
    assert hits >= 16
    # A range that holds everything says nothing.
    assert np.median(widths) < 2.5


def test_equal_answers_have_an_exact_estimate() -> None:
    found = estimate([row(400, 2) for _ in range(10)], [row(400, 2) for _ in range(90)])
    assert found.output_tokens is not None
    assert found.output_tokens.expected == 180
    assert found.output_tokens.low == pytest.approx(180)
    assert found.cost_usd is not None
    assert found.cost_usd.expected == pytest.approx(90 * (130 * INPUT_PICO + 2 * OUTPUT_PICO) / 1e12)


def test_longer_prompts_cost_more_in_proportion() -> None:
    pilot = [row(chars, 5) for chars in range(100, 2100, 100)]
    found = estimate(pilot, [row(40_000, 5) for _ in range(10)])
    assert found.input_tokens is not None
    assert found.input_tokens.expected == pytest.approx(100_300, rel=0.01)
    assert found.cost_usd is not None
    assert found.cost_usd.expected == pytest.approx(
        10 * (10_030 * INPUT_PICO + 5 * OUTPUT_PICO) / 1e12, rel=0.01
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("answers", [[20] * 9 + [0], [20] * 49 + [0], [1, 1, 2, 1, 300], [0] * 10])
def test_rows_that_used_nothing_and_a_few_long_ones_give_no_absurd_range(answers: list[int]) -> None:
    pilot = [row(400, tokens) if tokens else EMPTY for tokens in answers]
    found = estimate(pilot, [row(400, 20) for _ in range(1000)])
    assert found.cost_usd is not None
    assert found.output_tokens is not None
    assert 0 <= found.output_tokens.low <= found.output_tokens.high
    # No more than a multiple of the longest answer for each row.
    assert found.output_tokens.high <= 2 * 1000 * max(answers)


def test_a_few_unknown_rows_do_not_hide_what_the_others_used() -> None:
    unknown = EndedRow(prompt_chars=9, input_tokens=None, output_tokens=None, cost_pico=None, duration_s=None)
    found = estimate([row(400, 2)] * 9 + [unknown], [row(400, 2)] * 90)
    assert found.cost_usd is not None
    assert found.output_tokens is not None
    assert found.output_tokens.expected == 180
    assert estimate([row(400, 2)] * 6 + [unknown] * 4, [row(400, 2)] * 90).cost_usd is None


def test_a_million_rows_need_little_memory() -> None:
    tracemalloc.start()
    try:
        pilot = [row(400, tokens) for tokens in (1, 1, 2, 1, 9, 3)]
        found = estimate_rows([400] * 1_000_000, pilot, source="pilot", in_flight=(1.0, 2.0))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert found.cost_usd is not None


def test_the_time_in_which_rows_were_in_flight() -> None:
    assert covered_s([(0.0, 2.0), (1.0, 3.0), (10.0, 11.0), (10.5, 10.7)]) == 4.0
    assert covered_s([]) == 0.0


def test_an_unknown_cost_is_none_and_few_rows_say_nothing() -> None:
    unpriced = [EndedRow(prompt_chars=9, input_tokens=9, output_tokens=3, cost_pico=None, duration_s=1.0)] * 9
    found = estimate(unpriced, unpriced)
    assert found.cost_usd is None
    assert found.output_tokens is not None
    few = estimate([row(10, 3)] * 4, [row(10, 3)] * 100)
    assert not few.is_known


def test_the_time_depends_on_the_rows_in_flight() -> None:
    found = estimate([row(10, 3, 2.0)] * 10, [row(10, 3, 2.0)] * 100)
    assert found.seconds is not None
    assert found.seconds.low == pytest.approx(25)
    assert 50 <= found.seconds.high < 60


def test_texts_alone_give_bounds() -> None:
    text = "The delivery was late, but the support was friendly. " * 20
    found = estimate_texts([SentText(len(text), len(text))] * 50, PRICE, calls=2)
    assert found.source == "text"
    assert found.input_tokens is not None
    assert found.output_tokens is not None
    assert found.cost_usd is not None
    # 11 words in 53 characters.
    assert found.input_tokens.low < 50 * 20 * 11.5 < found.input_tokens.high
    assert (found.output_tokens.low, found.output_tokens.high) == (50, 50 * 1000 * 2)
    assert found.cost_usd.low > 0
    assert found.cost_usd.high >= 50 * 2 * 1000 * OUTPUT_PICO / 1e12
    assert estimate_texts([SentText(9, 9)], None, calls=1).cost_usd is None


@pytest.mark.parametrize(
    ("schema", "longest"),
    [
        ({"type": "string", "enum": ["yes", "no", None]}, 5),
        ({"enum": [1, 1000]}, 4),
        ({"type": "object", "properties": {"ok": {"type": "boolean"}}}, len('{"ok": false, }')),
        ({"$ref": "#/$defs/one", "$defs": {"one": {"enum": ["Zürich"]}}}, 9),
        ({"type": "string"}, None),
        ({"type": "integer"}, None),
        ({"type": "object", "properties": {"ok": {"type": "boolean"}, "why": {"type": "string"}}}, None),
        ({"type": "object"}, None),
        ({"type": "array", "items": {"enum": ["a"]}}, None),
    ],
)
def test_the_longest_answer_of_a_schema(schema: dict[str, Any], longest: int | None) -> None:
    assert longest_answer_bytes(schema) == longest


def test_answers_of_known_length_have_an_expected_cost_and_the_maximum_apart() -> None:
    price = Price(input=1_000_000 * 10**6, output=5_000_000 * 10**6, max_output_tokens=64_000)
    found = estimate_texts([SentText(200, 200)] * 10_000, price, calls=3, answer_bytes=10, may_reason=True)
    assert found.output_tokens is not None
    assert found.cost_usd is not None
    assert found.output_tokens.expected is not None
    # A label of ten bytes has two to five tokens.
    assert 20_000 <= found.output_tokens.expected <= 60_000
    assert found.output_tokens.low <= found.output_tokens.expected <= found.output_tokens.high < 1_000_000
    assert found.cost_usd.expected == pytest.approx(
        (10_000 * 50 * 1 + found.output_tokens.expected * 5) / 1e6, rel=0.01
    )
    assert found.cost_usd.expected is not None
    assert found.cost_usd.low < found.cost_usd.expected < found.cost_usd.high < 30
    assert found.ceiling_usd is not None
    assert found.ceiling_usd > 9_000
    lines = "\n".join(estimate_lines(found, max_cost=20))
    assert "expected $0.75" in lines
    assert "theoretical maximum: $" in lines
    assert "reasoning tokens are added, and their number is unknown" in lines
    # The model may reason, and that is not in the range.
    assert "--max-cost: $20.00 may be too low" in lines
    assert "is enough" in "\n".join(estimate_lines(replace(found, may_reason=False), max_cost=20))
    assert estimate_texts([SentText(9, 9)], None, calls=1, answer_bytes=3).output_tokens is not None


def test_the_maximum_is_that_of_all_models() -> None:
    price = Price(input=10**12, output=10**12, max_output_tokens=100)
    short = estimate_texts([SentText(9, 9)], price, calls=1, answer_bytes=3)
    known = Estimate(rows=4, source="ledger", source_rows=20, cost_usd=Range(low=1, expected=2, high=4))
    both = added([short, known])
    assert both is not None
    assert both.has_short_answers
    assert short.ceiling_usd is not None
    assert both.ceiling_usd == short.ceiling_usd + 4
    open_ended = estimate_texts([SentText(9, 9)], price, calls=1)
    mixed = added([short, open_ended])
    assert mixed is not None
    assert not mixed.has_short_answers


def test_estimates_of_several_models_are_added() -> None:
    known = Estimate(
        rows=4, source="ledger", source_rows=20, cost_usd=Range(low=1, expected=2, high=4), seconds=None
    )
    wide = Estimate(rows=2, source="text", source_rows=0, cost_usd=Range(low=0.5, expected=None, high=9))
    both = added([known, None, wide])
    assert both == Estimate(
        rows=6, source="text", source_rows=0, cost_usd=Range(low=1.5, expected=None, high=13)
    )
    twice = added([known, known])
    assert twice is not None
    assert (twice.source, twice.source_rows, twice.cost_usd) == (
        "ledger",
        40,
        Range(low=2, expected=4, high=8),
    )
    assert added([None]) is None
