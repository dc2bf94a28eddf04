"""``opencode-tasks compare``: which answers differ between two runs, and which run is better."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opencode_tasks.cli.command_options import declared
from opencode_tasks.cli.help_text import Command
from opencode_tasks.cli.html_option import HtmlOption, check_folders, write_page
from opencode_tasks.cli.ledger_option import RUN_HELP, LedgerOption, named_run, open_existing
from opencode_tasks.domain.money import format_usd, pico_to_usd
from opencode_tasks.domain.text import terminal_line
from opencode_tasks.engine.progress_text import count_of, duration

if TYPE_CHECKING:
    from opencode_tasks.engine.compare import ComparedRun, Comparison
    from opencode_tasks.ledger import Ledger
    from opencode_tasks.quality.agreement import AccuracyDifference, ChangedAnswer, FieldComparison

# --json has all changed rows.
MAX_SHOWN = 10
MAX_VALUE_CHARS = 60


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", cls=Command)(compare)


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help=RUN_HELP)],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="Run over the same rows.")],
    html: HtmlOption = None,
    ledger: LedgerOption = None,
    as_json: Annotated[bool, declared("as_json", help_text="Print one JSON object.")] = False,
) -> None:
    """Compare the answers, the accuracy, the cost and the time of two runs over the same rows.

    Rows are matched by their ids. If one of the runs had --gold, the accuracy of both is compared over the
    same rows, with McNemar's exact test: a p-value below 0.05 is a difference that chance seldom makes.

    \b
    Examples:
      opencode-tasks compare 20261127-143000-4e9a72 20261128-090000-77ab01
      opencode-tasks compare 20261127-143000-4e9a72 20261128-090000-77ab01 --html comparison.html
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.engine.compare import compare_runs

    check_folders(html)
    with open_existing(ledger) as opened:
        found = compare_runs(opened, named_run(opened, first), named_run(opened, second))
        page = None if html is None else _page(opened, found)
    typer.echo(json.dumps(_as_json(found), indent=2) if as_json else "\n".join(_lines(found)))
    if html is not None and page is not None:
        write_page(page, html)


def _page(ledger: Ledger, found: Comparison) -> str:
    from opencode_tasks.ledger import shown_url
    from opencode_tasks.reports.comparison_page import comparison_page

    return comparison_page(ledger, found, now=datetime.now(UTC), source=shown_url(ledger.url))


def _as_json(found: Comparison) -> dict[str, Any]:
    return {
        "a": _run_json(found.first),
        "b": _run_json(found.second),
        "rows": {"common": found.common, "only_a": found.only_first, "only_b": found.only_second},
        "fields": {one.field: _field_json(one) for one in found.fields},
    }


def _run_json(run: ComparedRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "model_ref": run.model_ref,
        "answered": run.answered,
        "unanswered": run.unanswered,
        "answers_cost_usd": pico_to_usd(run.answers_cost_pico),
        "seconds": run.seconds,
    }


def _field_json(one: FieldComparison) -> dict[str, Any]:
    accuracy = one.accuracy
    return {
        "n": one.n,
        "agreement": one.agreement,
        "kappa": one.kappa,
        "changed": [
            {"row_id": row.row_id, "a": row.first, "b": row.second, "gold": row.gold} for row in one.changed
        ],
        "accuracy": None
        if accuracy is None
        else {
            "n": accuracy.n,
            "a": accuracy.first,
            "b": accuracy.second,
            "only_a": accuracy.only_first,
            "only_b": accuracy.only_second,
            "p_value": accuracy.p_value,
        },
        "conflicting_gold": one.conflicting_gold,
    }


def _lines(found: Comparison) -> list[str]:
    """The comparison for people."""
    lines = [_run_line("A", found.first), _run_line("B", found.second)]
    alone = [
        f"{count} only in {name}"
        for name, count in (("A", found.only_first), ("B", found.only_second))
        if count
    ]
    lines.append(", ".join([f"{count_of(found.common)} in both", *alone]))
    lines.append("compared: the answers of the models, without the corrections of persons")
    for one in found.fields:
        lines += _field_lines(one)
    return lines


def _run_line(name: str, run: ComparedRun) -> str:
    cost = "unknown" if run.answers_cost_pico is None else format_usd(run.answers_cost_pico)
    time = "no row sent" if run.seconds is None else f"rows in flight for {duration(run.seconds)}"
    answered = f"{run.answered} answered, {run.unanswered} without an answer"
    return f"{name}: run {run.run_id}, {run.model_ref or 'no model'}: {answered}, cost {cost}, {time}"


def _field_lines(one: FieldComparison) -> list[str]:
    if one.agreement is None:
        return [f"{one.field}: no row has an answer in both runs"]
    kappa = "" if one.kappa is None else f", kappa {one.kappa:.2f}"
    lines = [f"{one.field}: {one.agreement:.1%} of {count_of(one.n)} agree{kappa}; {len(one.changed)} differ"]
    if one.accuracy is not None:
        lines.append(f"  {_accuracy_text(one.accuracy)}")
    if one.conflicting_gold:
        rows = count_of(one.conflicting_gold)
        lines.append(f"  left out of the accuracy: {rows} with different gold values in A and B")
    lines += [f"  {_changed_text(row)}" for row in one.changed[:MAX_SHOWN]]
    if len(one.changed) > MAX_SHOWN:
        lines.append(f"  and {len(one.changed) - MAX_SHOWN} more (--json lists them all)")
    return lines


def _accuracy_text(found: AccuracyDifference) -> str:
    from opencode_tasks.quality.agreement import SIGNIFICANT

    verdict = "a difference" if found.p_value < SIGNIFICANT else "may be chance"
    return (
        f"accuracy of the models over {count_of(found.n)}: A {found.first:.1%}, B {found.second:.1%}; right "
        f"in A alone {found.only_first}, in B alone {found.only_second}; p = {found.p_value:.3g}: {verdict}"
    )


def _changed_text(row: ChangedAnswer) -> str:
    gold = "" if row.gold is None else f" (gold: {_short(row.gold)})"
    return f"row {row.row_id}: {_short(row.first)} -> {_short(row.second)}{gold}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return terminal_line(text, MAX_VALUE_CHARS)
