"""What the progress line says of rows in flight."""

from __future__ import annotations

import pytest

from opencode_tasks.cli.progress import pace_words
from opencode_tasks.ledger import PaceNow


@pytest.mark.parametrize(
    ("pace", "is_found", "words"),
    [
        (PaceNow(in_flight=12, limit=13, ceiling=None), True, "12 rows in flight (finding the limit)"),
        (PaceNow(in_flight=1, limit=4, ceiling=None), False, "1 row in flight"),
        (PaceNow(in_flight=10, limit=10, ceiling=10), True, "10 rows in flight (the provider takes 10)"),
        (PaceNow(in_flight=11, limit=11, ceiling=10), True, "11 rows in flight (trying 11; 10 were taken)"),
    ],
)
def test_what_is_known_of_the_limit_is_said(pace: PaceNow, words: str, *, is_found: bool) -> None:
    assert pace_words(pace, is_found=is_found) == words
