"""Exact money: US dollars as an integer number of pico-dollars (1e-12 USD), and back.

A price of 0.10 USD per million tokens is 1e-7 USD a token, so micro-dollars would round and
floats would drift; integers add up exactly in any order.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, DecimalException

PICO_PER_USD = 10**12

_CENT = Decimal("0.01")
_PICO = Decimal("1e-12")
_EXACT = Context(prec=64, rounding=ROUND_HALF_EVEN)
_SIGNIFICANT_DIGITS = 3


def usd_to_pico(value: float | str | Decimal) -> int:
    """The pico-dollars of an amount in dollars, half a pico-dollar rounded to even.

    A float is read as the shortest decimal that prints as it (0.1 is a tenth, not 0.1000…0055).
    ValueError for anything that is not a finite amount below 1e50 USD.
    """
    try:
        dollars = Decimal(str(value))
        if not dollars.is_finite():
            raise ValueError(f"not an amount of money: {value!r}")
        return int(dollars.quantize(_PICO, context=_EXACT).scaleb(12, context=_EXACT))
    except DecimalException as error:
        raise ValueError(f"not an amount of money: {value!r}") from error


def pico_to_usd(pico: int | None) -> float | None:
    """The nearest float in dollars, for columns and charts; None (unknown) stays None."""
    return None if pico is None else pico / PICO_PER_USD


def format_usd(pico: int | None) -> str:
    """An amount for people: "$1,234.57", "$0.0123", "$0.00000015", "-$0.50"; "unknown" for None.

    From one dollar up it is rounded to the cent; below, to three significant digits.
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
