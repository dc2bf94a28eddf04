"""Exact money: US dollars as an integer number of pico-dollars (1e-12 USD), and back.

A price of 0.10 USD per million tokens is 1e-7 USD per token, so micro-dollars would be rounded. Sums of
floats depend on the order of their terms; sums of integers are exact.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, DecimalException

PICO_PER_USD = 10**12
# More for one model call is an error of the report. The sum of hundreds of them fits in 64 bits.
MAX_CALL_PICO = 10_000 * PICO_PER_USD

_CENT = Decimal("0.01")
_PICO = Decimal("1e-12")
_EXACT = Context(prec=64, rounding=ROUND_HALF_EVEN)
_SIGNIFICANT_DIGITS = 3


def usd_to_pico(value: float | str | Decimal) -> int:
    """An amount of USD in pico-dollars, with half a pico-dollar rounded to even.

    A float means its shortest decimal representation: 0.1 is exactly one tenth. Raises ValueError if the
    value is not a finite amount below 1e50 USD.
    """
    try:
        dollars = Decimal(str(value))
        if not dollars.is_finite():
            raise ValueError(f"not an amount of money: {value!r}")
        return int(dollars.quantize(_PICO, context=_EXACT).scaleb(12, context=_EXACT))
    except DecimalException as error:
        raise ValueError(f"not an amount of money: {value!r}") from error


def call_cost(pico: int) -> int | None:
    """The cost of one model call; None (unknown) if it is below 0 or above 10,000 USD."""
    return pico if 0 <= pico <= MAX_CALL_PICO else None


def pico_to_usd(pico: int | None) -> float | None:
    """The nearest float in USD, for columns and charts; None (unknown) for None."""
    return None if pico is None else pico / PICO_PER_USD


def format_usd(pico: int | None) -> str:
    """An amount as text: "$1,234.57", "$0.0123", "$0.00000015", "-$0.50"; "unknown" for None.

    Amounts from one dollar are rounded to the cent, smaller ones to three significant digits.
    """
    if pico is None:
        return "unknown"
    dollars = Decimal(abs(pico)).scaleb(-12, context=_EXACT)
    sign = "-" if pico < 0 else ""
    if dollars == 0 or dollars >= 1:
        return f"{sign}${dollars.quantize(_CENT, context=_EXACT):,}"
    digits = max(2, _SIGNIFICANT_DIGITS - 1 - dollars.adjusted())
    rounded = f"{dollars.quantize(Decimal(1).scaleb(-min(digits, 12)), context=_EXACT):f}"
    whole, _, fraction = rounded.partition(".")
    return f"{sign}${whole}.{fraction.rstrip('0').ljust(2, '0')}"
