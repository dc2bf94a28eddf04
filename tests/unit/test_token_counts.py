"""Token counts of a step: what is unknown, and what the total restores."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.outcomes.token_counts import UNKNOWN, read_token_counts


def tokens(read: Any, cached: Any, written: Any, output: Any, reasoning: Any, total: Any = None) -> Any:
    found = {"input": read, "output": output, "reasoning": reasoning}
    return {**found, "cache": {"read": cached, "write": written}, "total": total}


@pytest.mark.parametrize(
    ("found", "counts", "corrected"),
    [
        (tokens(70, 30, 2, 15, 5, 122), (70, 30, 2, 15, 5), False),
        (tokens(70, 30, 2, 15, 5), (70, 30, 2, 15, 5), False),
        # opencode: 6 - 89 is below 0.
        (tokens(130, 149, 0, 0, 89, 285), (130, 149, 0, 6, 89), True),
        # opencode: 100 - 500 is below 0.
        (tokens(0, 500, 0, 10, 0, 110), (100, 500, 0, 10, 0), True),
        # Either count may be the one that was cut.
        (tokens(0, 149, 0, 0, 89, 100), (11, 149, 0, 0, 89), True),
        (tokens(0, 149, 0, 0, 89, 50), (0, 149, 0, 0, 89), False),
        (tokens(130, 149, 0, 6, 89, 285), (130, 149, 0, 6, 89), False),
        # Reasoning alone, with all of the output.
        (tokens(130, 149, 0, 0, 89, 368), (130, 149, 0, 0, 89), False),
        (tokens(50, 0, 0, 0, 0, 50), (50, 0, 0, None, 0), True),
        # Impossible counts are unknown, and a cost of them too.
        (tokens(2**63, 30, 0, 15, 5), (None, 30, 0, 15, 5), True),
        (tokens(70, 30, 0, 15, 5, 2**63), (70, 30, 0, 15, 5), False),
        (tokens(-5, 3, 0, -1, 2), (0, 3, 0, 0, 2), False),
    ],
)
def test_counts(found: Any, counts: tuple[int | None, ...], *, corrected: bool) -> None:
    read = read_token_counts(found, has_output=True)
    assert tuple(read.counts.values()) == counts
    assert read.is_corrected is corrected


@pytest.mark.parametrize("found", [{}, tokens(0, 0, 0, 0, 0), tokens(0, 0, 0, 0, 0, 77), {"input": 0}])
def test_counts_that_are_all_0_are_unknown(found: Any) -> None:
    assert read_token_counts(found, has_output=True) == UNKNOWN
    assert read_token_counts(found, has_output=False) == UNKNOWN


def test_a_call_without_output_may_have_no_output_tokens() -> None:
    read = read_token_counts(tokens(50, 0, 0, 0, 0, 50), has_output=False)
    assert tuple(read.counts.values()) == (50, 0, 0, 0, 0)
    assert not read.is_corrected


values = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.booleans()


@given(st.lists(values, min_size=6, max_size=6), st.booleans())
def test_no_count_is_below_0(found: list[Any], has_output: bool) -> None:
    read = read_token_counts(tokens(*found), has_output=has_output)
    assert all(count is None or count >= 0 for count in read.counts.values())
