"""Token counts of a step as opencode reports them, corrected as far as possible. Pure.

opencode makes 0 of a count that the provider did not send, and cuts a count that would be negative to 0.
Both are visible in its counts: a served request has input tokens, an answer with text has output tokens,
and ``total`` is the sum of input and output before opencode divided them (opencode 1.16 to 1.18).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.records import TOKEN_COLUMNS

# Above it, a count of one model call is an error of the report: the largest contexts have 10 million tokens.
MAX_CALL_TOKENS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Counts by the names in ``TOKEN_COLUMNS``; None is unknown, and no count is below 0.

    ``is_corrected`` is True if a count is not the one that opencode reports. Its cost is then wrong too.
    """

    counts: Mapping[str, int | None]
    is_corrected: bool = False


UNKNOWN = TokenCounts(counts=dict.fromkeys(TOKEN_COLUMNS))


def read_token_counts(tokens: Mapping[str, Any], *, has_output: bool) -> TokenCounts:
    """The counts of a step from its field ``tokens``.

    ``has_output``: it has text, reasoning or a tool call.
    """
    cache = mapping_in(tokens.get("cache"))
    given = {
        "input_tokens": tokens.get("input"),
        "cache_read_tokens": cache.get("read"),
        "cache_write_tokens": cache.get("write"),
        "output_tokens": tokens.get("output"),
        "reasoning_tokens": tokens.get("reasoning"),
    }
    counts = {name: _count(value) for name, value in given.items()}
    if not any(counts.values()):
        return UNKNOWN
    fixed = _corrected(counts, _count(tokens.get("total")))
    if not any(fixed[name] for name in TOKEN_COLUMNS[:3]):
        fixed["input_tokens"] = None
    if has_output and not fixed["output_tokens"] and not fixed["reasoning_tokens"]:
        fixed["output_tokens"] = None
    is_impossible = any(_is_impossible(value) for value in given.values())
    return TokenCounts(counts=fixed, is_corrected=fixed != counts or is_impossible)


def _corrected(counts: Mapping[str, int | None], total: int | None) -> dict[str, int | None]:
    """The counts with the one that opencode cut to 0 restored from the total, if only one can be it.

    Some providers count reasoning beside the output, others count cached input beside the input.
    opencode subtracts the one from the other.
    """
    known = {name: count or 0 for name, count in counts.items()}
    if total is None or sum(known.values()) <= total:
        return dict(counts)
    prompt = known["input_tokens"] + known["cache_read_tokens"] + known["cache_write_tokens"]
    completion = known["output_tokens"] + known["reasoning_tokens"]
    if not known["output_tokens"] and known["reasoning_tokens"] and prompt <= total:
        return {**counts, "output_tokens": total - prompt}
    if not known["input_tokens"] and completion <= total:
        return {**counts, "input_tokens": total - completion}
    return dict(counts)


def _count(value: Any) -> int | None:
    if not _is_number(value) or _is_impossible(value):
        return None
    return max(0, int(value))


def _is_impossible(value: Any) -> bool:
    return _is_number(value) and value > MAX_CALL_TOKENS


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and not math.isnan(value) and value != -math.inf
