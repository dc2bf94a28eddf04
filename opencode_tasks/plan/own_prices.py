"""The user's own prices, from the file in ``OPENCODE_TASKS_PRICES``."""

from __future__ import annotations

import json

from opencode_tasks.domain.cost import PriceBook, read_own_prices
from opencode_tasks.settings import settings
from opencode_tasks.system.text_file import read_text_file


def own_prices() -> tuple[PriceBook, list[str]]:
    """The prices in the file of the settings, and one line for each fault in it."""
    path = settings().prices
    if path is None:
        return PriceBook(), []
    name = f"OPENCODE_TASKS_PRICES: {path}"
    try:
        content = json.loads(read_text_file(path))
    except OSError as error:
        return PriceBook(), [f"{name}: cannot be read: {error.strerror}"]
    except ValueError as error:
        return PriceBook(), [f"{name}: is not JSON: {str(error).splitlines()[0]}"]
    found, faults = read_own_prices(content, name)
    return PriceBook(found), faults
