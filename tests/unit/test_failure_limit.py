"""Number of rows that may fail: ``--max-failed``."""

from __future__ import annotations

import pytest

from opencode_tasks.errors import InputError
from opencode_tasks.plan.command import allowed_failures


@pytest.mark.parametrize(
    ("max_failed", "rows", "allowed"),
    [
        (None, 10, None),
        (0, 10, 0),
        ("3", 10, 3),
        (" 3 ", 10, 3),
        ("5%", 99, 4),
        ("0.1%", 2000, 2),
        ("33.3%", 1000, 333),
        ("100%", 7, 7),
        ("0%", 7, 0),
    ],
)
def test_a_limit_is_a_number_or_a_percentage(
    max_failed: str | int | None, rows: int, allowed: int | None
) -> None:
    assert allowed_failures(max_failed, rows) == allowed


@pytest.mark.parametrize("max_failed", ["", "half", "-1", "101%", "1e3", "5 %", "%", "1.5"])
def test_any_other_text_is_refused(max_failed: str) -> None:
    with pytest.raises(InputError, match="--max-failed"):
        allowed_failures(max_failed, 10)
