from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.domain.money import PICO_PER_USD, format_usd, pico_to_usd, usd_to_pico


@pytest.mark.parametrize(
    ("value", "pico"),
    [
        (0.1, 10**11),
        (1e-7, 100_000),
        ("0.0000000000005", 0),
        ("0.0000000000015", 2),
        (Decimal("-2.5"), -25 * 10**11),
        ("123456789012345.123456789012", 123456789012345123456789012),
        ("1e-999999", 0),
    ],
)
def test_dollars_become_exact_pico_dollars(value: float | str | Decimal, pico: int) -> None:
    assert usd_to_pico(value) == pico


@pytest.mark.parametrize("value", ["nan", "inf", "", "$1", "1e999999999", float("nan")])
def test_what_is_no_amount_is_refused(value: float | str) -> None:
    with pytest.raises(ValueError, match="not an amount of money"):
        usd_to_pico(value)


@given(st.integers(min_value=-(10**24), max_value=10**24))
def test_every_pico_dollar_survives_its_decimal(pico: int) -> None:
    assert usd_to_pico(Decimal(pico) / PICO_PER_USD) == pico


@given(st.floats(min_value=0, max_value=1e6))
def test_there_and_back_stays_within_half_a_pico_dollar(value: float) -> None:
    back = pico_to_usd(usd_to_pico(value))
    assert back is not None
    assert abs(Decimal(str(back)) - Decimal(str(value))) <= Decimal("0.5e-12")


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (None, "unknown"),
        (0, "$0.00"),
        (1, "$0.000000000001"),
        (150_000, "$0.00000015"),
        (12_345_000_000, "$0.0123"),
        (500_000_000_000, "$0.50"),
        (-500_000_000_000, "-$0.50"),
        (999_960_000_000, "$1.00"),
        (1_234_567 * 10**9, "$1,234.57"),
        (10**30, "$1,000,000,000,000,000,000.00"),
    ],
)
def test_amounts_for_people(pico: int | None, text: str) -> None:
    assert format_usd(pico) == text


def test_unknown_stays_unknown() -> None:
    assert pico_to_usd(None) is None
