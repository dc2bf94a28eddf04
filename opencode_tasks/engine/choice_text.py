"""Lines and JSON that say how the candidates of a choice compare, and which one is chosen. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from opencode_tasks.domain.json_values import list_in
from opencode_tasks.engine.choose import Choice, Standing
from opencode_tasks.engine.progress_text import count_of
from opencode_tasks.engine.summary_text import table_lines, usd
from opencode_tasks.plan.option_signatures import Option
from opencode_tasks.quality.candidates import rows_to_be_sure


def choice_lines(found: Choice, command: str | None) -> list[str]:
    """The candidates, the winner, and the command that uses it."""
    lines = [*standing_lines(found.standings), *error_lines(found.standings), *verdict_lines(found)]
    return [*lines, *([f"run: {command}"] if command else [])]


def verdict_lines(found: Choice) -> list[str]:
    """The winner, and what makes it less than certain."""
    lines: list[str] = []
    if any(one.measured.row_usd is None for one in found.standings):
        lines.append("a cost is unknown: a model of known cost is preferred, then the most accurate one")
    if found.chosen is None:
        return [*lines, f"no model reaches {found.target:.0%}"]
    chosen = found.chosen
    low, high = chosen.accuracy_interval()
    lines.append(
        f"cheapest with {found.target:.0%} correct labels: {chosen.candidate.name} "
        f"({chosen.accuracy:.1%}, 95 % interval {low:.1%} to {high:.1%})"
    )
    if (low or 0.0) < found.target:
        lines.append(f"not sure yet: {_what_is_missing(found)}")
    return lines


def _what_is_missing(found: Choice) -> str:
    chosen = found.chosen
    assert chosen is not None
    rows = rows_to_be_sure(chosen, found.target)
    if rows is None:
        return "its accuracy is the target itself, so that no number of rows would tell"
    return f"the interval has shares below the target; at this accuracy about {rows} rows would tell"


def standing_lines(standings: Sequence[Standing]) -> list[str]:
    """The candidates so far as a table, its head first."""
    head = ("model", "rows", "correct", "95 % interval", "per row", "per correct label", "s/row", "")
    return table_lines([head, *(_cells(one) for one in standings)])


def error_lines(standings: Sequence[Standing]) -> list[str]:
    """How many rows of a candidate have no answer, and with which errors; no line if all have one."""
    return [
        f"{one.measured.candidate.name}: {len(errors)} of {count_of(one.measured.rows)} without an answer "
        f"({', '.join(f'{name} {count}' for name, count in Counter(errors).most_common())})"
        for one in standings
        if (errors := one.measured.errors)
    ]


def _cells(one: Standing) -> tuple[str, ...]:
    found = one.measured
    low, high = found.accuracy_interval()
    return (
        found.candidate.name,
        str(found.rows),
        "-" if found.accuracy is None else f"{found.accuracy:.1%}",
        "-" if low is None or high is None else f"{low:.1%} to {high:.1%}",
        *("unknown" if cost is None else usd(cost) for cost in (found.row_usd, found.label_usd)),
        "-" if found.row_seconds is None else f"{found.row_seconds:.1f}",
        "" if one.dropped is None else f"dropped: {one.dropped}",
    )


def choice_json(found: Choice, fields: Sequence[str], command: str | None) -> dict[str, Any]:
    """The candidates and the winner as a JSON object."""
    chosen = found.chosen
    return {
        "target": found.target,
        "rows": found.rows,
        "gold": list(fields),
        "candidates": [_candidate_json(one) for one in found.standings],
        "chosen": None if chosen is None else chosen.candidate.name,
        "options": None
        if chosen is None
        else {"model": chosen.candidate.model, "variant": chosen.candidate.variant},
        "command": command,
    }


def _candidate_json(one: Standing) -> dict[str, Any]:
    found = one.measured
    low, high = found.accuracy_interval()
    costs = [cost for cost in found.costs_usd if cost is not None]
    return {
        "name": found.candidate.name,
        "model": found.candidate.model,
        "variant": found.candidate.variant,
        "rows": found.rows,
        "correct": found.correct,
        "unanswered": len(found.errors),
        "errors": dict(Counter(found.errors)),
        "accuracy": found.accuracy,
        "low": low,
        "high": high,
        "cost_usd": sum(costs) if len(costs) == len(found.costs_usd) else None,
        "row_cost_usd": found.row_usd,
        "label_cost_usd": found.label_usd,
        "row_seconds": found.row_seconds,
        "dropped": one.dropped,
        "run_ids": list(one.run_ids),
    }


def annotate_command(given: Mapping[str, Any], found: Choice, options: Mapping[str, Option]) -> str | None:
    """The command that annotates the whole table with the chosen model; None without one.

    ``given`` are the values of the command's ``options``.
    """
    if found.chosen is None:
        return None
    words = ["opencode-tasks", "annotate", given["input"], "-o", "OUTPUT"]
    words += ["--model", found.chosen.candidate.model]
    if found.chosen.candidate.variant is not None:
        words += ["--variant", found.chosen.candidate.variant]
    for name, option in options.items():
        value = given[name]
        if value in (option.info.default, []) or name == "max_cost":
            continue
        many: list[Any] = list_in(value) if option.is_list else [value]
        for one in many:
            words += [option.flag, f"{one:g}" if isinstance(one, float) else str(one)]
    return shlex.join(words)
