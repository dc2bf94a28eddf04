"""Gold values of the rows of a review, and whether the answers differ from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opencode_tasks.engine.quality import answer_in, fields_of, has_answer, kind_in
from opencode_tasks.frames.answer_form import answer_text
from opencode_tasks.frames.cells import json_text
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.ledger import Ledger
from opencode_tasks.quality.gold import comparable


def known_values(
    ledger: Ledger, run_id: str, outcomes: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """The gold values of INPUT by row key and field. Of rows with equal keys, the first value counts."""
    keys = {one["row_id"]: one["row_key"] for one in outcomes}
    found: dict[str, dict[str, Any]] = {}
    for field in fields_of(schema):
        values = ledger.gold.values(run_id, field, only_of_input=True)
        for row_id, key in keys.items():
            if row_id in values:
                found.setdefault(key, {}).setdefault(field, values[row_id])
    return found


def differs(outcome: Mapping[str, Any], gold: Mapping[str, Any], schema: Mapping[str, Any] | None) -> bool:
    """Whether the answer of a row differs from a gold value; False without an answer."""
    if not has_answer(outcome["status"], outcome["response"]):
        return False
    for field, value in gold.items():
        kind = kind_in(schema, field)
        given = answer_in(outcome["response"], outcome["structured"], field, schema)
        if comparable(value, kind) != comparable(given, kind):
            return True
    return False


def gold_text(gold: Mapping[str, Any]) -> str | None:
    """The gold values of a row as one text: the value of a whole answer, else a JSON object by field."""
    if not gold:
        return None
    return answer_text(gold[RESPONSE.name]) if [*gold] == [RESPONSE.name] else json_text(dict(gold))
