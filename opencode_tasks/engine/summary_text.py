"""Lines that describe a run at its end, and when it is paused. Pure.

The terminal and the log of a Prefect flow run show the same lines.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from opencode_tasks.domain.advice import fix_for
from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.engine.canary_text import canary_lines
from opencode_tasks.engine.progress_text import count_of
from opencode_tasks.errors import RunPausedError
from opencode_tasks.outcomes.message_cleanup import presentable
from opencode_tasks.quality.gold import FieldQuality, quality_json

SHOWN_GROUPS = 3
# More labels, or longer ones, make a table that is wider than a terminal.
MAX_SHOWN_LABELS = 10
MAX_LABEL_CHARS = 20
# Fewer answers may be the same by chance.
MIN_SAME_ANSWERS = 5


def summary_lines(summary: Mapping[str, Any], output: str | None = None) -> list[str]:
    """Rows by status, tokens and cost of a run. ``summary`` is that of ``engine.result``.

    ``output`` is the path of the output as it is shown; None without one.
    """
    rows, tokens = summary["rows"], summary["tokens"]
    counts = ", ".join(
        f"{rows[name]} {name}"
        for name in ("completed", "failed", "skipped", "open")
        if rows[name] or name == "completed"
    )
    sources = ((rows["reused"], "from earlier answers"), (summary["reviewed_rows"], "answered by a person"))
    kinds = ", ".join(f"{count} of them {source}" for count, source in sources if count)
    reused = f" ({kinds})" if kinds else ""
    counted = ", ".join(
        f"{'unknown' if n is None else f'{n:,}'} {kind.removesuffix('_tokens')}" for kind, n in tokens.items()
    )
    seconds = "" if summary["seconds"] is None else f", {summary['seconds']:.1f} s in all"
    if not rows["total"]:
        counts = "no rows to answer"
    return [
        f"{counts}{reused}{f' -> {output}' if output else ''}",
        f"tokens: {counted}",
        f"cost: {_cost(summary)}{seconds}, run {summary['run_id']}",
        *chain.from_iterable(
            _quality_lines(field, found, summary["reviewed_rows"])
            for field, found in summary["quality"].items()
        ),
        *(() if summary["votes"] is None else (_votes_line(summary),)),
        *(() if summary["escalation"] is None else (_escalation_line(summary),)),
        *(() if summary["canary"] is None else canary_lines(summary["canary"])),
    ]


def failure_lines(
    groups: Sequence[Mapping[str, Any]], failed: int, run_id: str, model_ref: str, ledger: str = ""
) -> list[str]:
    """The most frequent messages of the failed rows, with their counts and the fix of each error type.

    ``groups`` are those of ``ledger.results.failure_messages``; ``ledger`` is that of ``ledger_argument``.
    """
    lines = [
        f"{count_of(group['failed_rows'])} failed with {group['error_type']}: "
        f"{presentable(group['error_message'] or '')}"
        for group in groups
    ]
    examples: dict[str, str] = {}
    for group in groups:
        examples.setdefault(group["error_type"] or "", group["row_id"])
    lines += [
        f"fix for {error_type}: {_with_names(fix_for(error_type, model_ref), run_id, row_id, ledger)}"
        for error_type, row_id in examples.items()
    ]
    others = failed - sum(group["failed_rows"] for group in groups)
    if others > 0:
        lines.append(
            f"{count_of(others)} failed with other messages: see the column error_message of the output"
        )
    return lines


def _with_names(fix: str, run_id: str, row_id: str, ledger: str) -> str:
    """The fix with the run, a failed row and the ledger in the command that it names."""
    return fix.replace("RUN_ID ROW_ID", f"{run_id} {presentable(shlex.quote(row_id))}{ledger}")


def paused_line(paused: RunPausedError) -> str:
    """Why a run is paused, and how many rows are open."""
    return (
        f"run {paused.run_id} is paused with {count_of(paused.open_rows)} open "
        f"({paused.error_type}): {presentable(paused.message)}"
    )


def usd(amount: float) -> str:
    """An amount of USD as text."""
    return format_usd(usd_to_pico(amount))


def table_lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells in columns, as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def quality_lines(quality: Mapping[str, FieldQuality]) -> list[str]:
    """The lines about each field that is compared with gold values."""
    found = quality_json([*quality.values()])
    return [*chain.from_iterable(_quality_lines(field, one) for field, one in found.items())]


def _quality_lines(field: str, found: Mapping[str, Any], reviewed: int = 0) -> list[str]:
    """The accuracy of a field, and a table of its labels if they are few."""
    left_out = (
        f"{found['left_out']} left out, which a person answered and this run did not send"
        if found["left_out"]
        else ""
    )
    if found["accuracy"] is None:
        return [
            f"quality of {field}: no row with a gold value has an answer{f', {left_out}' if left_out else ''}"
        ]
    share = f"{found['accuracy']:.1%} ({found['low']:.1%} to {found['high']:.1%})"
    of_model = " of the model" if reviewed else ""
    parts = [f"accuracy{of_model} {share} over {count_of(found['n'])}"]
    if found["unanswered"]:
        known = found["n"] + found["unanswered"]
        of_known = found["accuracy"] * found["n"] / known
        parts.append(f"{found['unanswered']} without an answer ({of_known:.1%} of {known} known)")
    if left_out:
        parts.append(left_out)
    if found["kappa"] is not None:
        parts.append(f"kappa {found['kappa']:.2f}")
    if found["mae"] is not None:
        parts.append(f"mean absolute error {found['mae']:.4g}")
    return [f"quality of {field}: {', '.join(parts)}", *_same_answer_line(found), *_label_lines(found)]


def _same_answer_line(found: Mapping[str, Any]) -> list[str]:
    """A line if all answers are the same label, and the known values are not."""
    answered = [
        (one["label"], sum(column))
        for one, column in zip(found["classes"], zip(*found["confusion"], strict=True), strict=True)
        if sum(column)
    ]
    if len(found["classes"]) == 1 or len(answered) != 1 or found["n"] < MIN_SAME_ANSWERS:
        return []
    label = presentable(answered[0][0])
    return [f"  all {found['n']} answers are {label!r}: they say nothing about the rows"]


def _label_lines(found: Mapping[str, Any]) -> list[str]:
    """The number of rows by known value and answer, with recall and precision of each label."""
    labels = [one["label"] for one in found["classes"]]
    if not 1 < len(labels) <= MAX_SHOWN_LABELS or max(map(len, labels)) > MAX_LABEL_CHARS:
        return []
    head = ("known \\ answer", *labels, "recall", "precision")
    answers = [sum(column) for column in zip(*found["confusion"], strict=True)]
    lines = [
        (
            one["label"],
            *map(str, row),
            # A share of no row is none.
            f"{one['recall']:.1%}" if sum(row) else "-",
            f"{one['precision']:.1%}" if count else "-",
        )
        for one, row, count in zip(found["classes"], found["confusion"], answers, strict=True)
    ]
    return [f"  {line}" for line in table_lines([head, *lines])]


def _cost(summary: Mapping[str, Any]) -> str:
    known = usd(summary["known_cost_usd"] or 0)
    unknown = " and an unknown part" if summary["cost_usd"] is None else ""
    unreported = summary["budget"]["unreported_at_most_usd"]
    more = f" and up to {usd(unreported)} that was not reported" if unreported else ""
    return f"{known}{unknown}{more}"


def _escalation_line(summary: Mapping[str, Any]) -> str:
    found, quality = summary["escalation"], summary["quality"]
    parts = [f"escalation: {count_of(found['rows'])} to {found['model']}, {found['answered']} answered"]
    parts.append(usd(found["cost_usd"]))
    parts += [
        f"accuracy of {field} {before:.1%} before, {after:.1%} now"
        for field, before in found["accuracy_before"].items()
        if before is not None and (after := quality.get(field, {}).get("accuracy")) is not None
    ]
    return ", ".join(parts)


def model_lines(summary: Mapping[str, Any]) -> list[str]:
    """Rows, cost, agreement and accuracy of each of several models as a table; none for a run with one."""
    models: Sequence[Mapping[str, Any]] = summary["models"]
    if not models:
        return []
    fields = [*models[0]["accuracy"]]
    of_field = [f"accuracy of {one}" for one in fields] if len(fields) > 1 else ["accuracy"] * len(fields)
    head = ("model", "answered", "cost", "with the majority", *of_field)
    return table_lines([head, *(_model_cells(one, fields) for one in models)])


def _model_cells(found: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, ...]:
    shares = [found["agreement"], *(found["accuracy"][one] for one in fields)]
    return (
        found["model"],
        f"{found['answered']} of {count_of(found['rows'])}",
        "unknown" if found["cost_usd"] is None else usd(found["cost_usd"]),
        *("-" if share is None else f"{share:.1%}" for share in shares),
    )


def _votes_line(summary: Mapping[str, Any]) -> str:
    """The votes of a run in one line, from ``vote_counts.votes_json``."""
    found = summary["votes"]
    parts = [f"votes: {found['asked']} of {found['votes'] * found['rows']}, {found['saved']} were not needed"]
    if summary["models"]:
        parts = [f"models: {found['votes']} on {count_of(found['rows'])}"]
    if found["agreement"] is not None:
        parts.append(f"agreement {found['agreement']:.1%}")
    parts += [
        f"alpha{'' if len(found['alpha']) == 1 else f' of {name}'} {value:.2f}"
        for name, value in found["alpha"].items()
        if value is not None
    ]
    if found["ties"]:
        parts.append(f"{found['ties']} undecided (needs_review)")
    return ", ".join(parts)
