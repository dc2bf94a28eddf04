"""Price list of a run as a file, which the opencode plugin reads to enforce the cost limit of a row."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path

from opencode_tasks.domain.cost import PriceBook


def write_price_list(folder: Path, prices: PriceBook) -> Path:
    """Write the prices to a file in ``folder``, which must exist, and return its path.

    Equal prices have the same file, which is written once. Its form is that of ``plugin/cost.js``.
    """
    text = json.dumps(prices.price_list(), sort_keys=True)
    path = folder / f"prices-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        new = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}")
        new.touch(mode=0o600)
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    return path
