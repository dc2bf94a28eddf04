"""``opencode-tasks review``: persons confirm or correct the answers of a run, in a tool of their choice."""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opencode_tasks.cli.command_options import declared
from opencode_tasks.cli.exit_codes import COMPLETED, SOME_FAILED
from opencode_tasks.cli.help_text import CONTEXT, Command
from opencode_tasks.cli.ledger_option import RUN_HELP, LedgerOption, named_run, open_existing
from opencode_tasks.domain.extras import install_hint
from opencode_tasks.domain.text import terminal_line
from opencode_tasks.engine.progress_text import count_of
from opencode_tasks.engine.summary_text import quality_lines
from opencode_tasks.quality.gold import quality_json

if TYPE_CHECKING:
    from opencode_tasks.engine.review_export import ReviewExport
    from opencode_tasks.engine.review_import import ReviewImport

MAX_ANSWER_CHARS = 100
SHOWN_ROWS = 5
HELP = """Let persons confirm or correct the answers of a run.

\b
Examples:
  opencode-tasks review export 20261127-143000-4e9a72 -o review.csv
  opencode-tasks review import review.csv
  opencode-tasks review undo 20261127-143000-4e9a72 r17
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, context_settings=CONTEXT)
    commands.command("export", cls=Command)(export_file)
    commands.command("import", cls=Command)(import_file)
    commands.command("undo", cls=Command)(undo)
    app.add_typer(commands, name="review", help=HELP)


def export_file(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help=RUN_HELP)],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="FILE", help="File to write: a json, csv or xlsx file, or fsspec URL."
        ),
    ],
    *,
    file_format: Annotated[
        Literal["labelstudio", "argilla", "csv", "xlsx"] | None,
        typer.Option(
            "--format",
            help="Format of the file. Default: by its suffix; json is labelstudio.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="ROWS", help="Largest number of rows. Default: all.")
    ] = None,
    share: Annotated[
        float,
        typer.Option(
            "--random", metavar="SHARE", help="Share of the rows that is drawn at random, from 0 to 1."
        ),
    ] = 0.2,
    seed: Annotated[
        int, typer.Option("--seed", metavar="NUMBER", help="Another number draws other rows.")
    ] = 0,
    ledger: LedgerOption = None,
    as_json: Annotated[bool, declared("as_json", help_text="Print one JSON object.")] = False,
) -> None:
    """Write the rows of a run that persons should look at, each with the answer of the model.

    The least certain rows come first: rows that need a review, rows without an answer, rows whose answer
    differs from a gold value, rows with the lowest agreement or confidence. Then come rows drawn at random,
    marked random: they show how good the answers are that nobody has reviewed yet, each prompt once. Their
    reason names their doubt too. Rows that a person has answered are left out, and one of several rows with
    the same prompt stands for all. For Label Studio, a labelling config is written beside the file.

    \b
    Examples:
      opencode-tasks review export 20261127-143000-4e9a72 -o review.csv --limit 200
      opencode-tasks review export 20261127-143000-4e9a72 -o tasks.json
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.engine.review_export import export_review

    with open_existing(ledger) as opened:
        run_id = named_run(opened, run_id)
        found = export_review(
            opened, run_id, output, file_format=file_format, limit=limit, share=share, seed=seed
        )
    if as_json:
        typer.echo(json.dumps({"run_id": run_id, **asdict(found)}, indent=2))
    else:
        typer.echo("\n".join(_export_lines(found)))


def import_file(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="Reviewed file. Its format is that of its content.")
    ],
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="RUN_ID", help="Run, if the file does not name it or names several."),
    ] = None,
    *,
    person: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="NAME",
            help="Person who answered. Default: the annotator in the file, or your user name.",
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import the other rows if some do not fit.")
    ] = False,
    encoding: Annotated[
        str | None, declared("encoding", help_text="Encoding of a CSV file. Default: UTF-8.")
    ] = None,
    ledger: LedgerOption = None,
    as_json: Annotated[bool, declared("as_json", help_text="Print one JSON object.")] = False,
) -> None:
    """Take the answers of persons from a reviewed file.

    An answer that was not changed is confirmed, a changed one is corrected. Rows with an empty answer, and
    tasks without an annotation, are left as they are. If rows do not fit (an unknown id, a label that is not
    among the choices), each is listed and nothing is imported. The exit code is 1 if --skip-bad left rows
    out. An answer of a person is final: later runs take it for rows with the same prompt and settings, and
    do not send these.

    \b
    Examples:
      opencode-tasks review import review.csv
      opencode-tasks review import annotations.json --by ann
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.engine.review_import import import_review

    with open_existing(ledger) as opened:
        found = import_review(
            opened,
            source,
            run_id=None if run_id is None else named_run(opened, run_id),
            answered_by=person,
            default_person=user_name(),
            skips_bad=skip_bad,
            encoding=encoding,
        )
    typer.echo(json.dumps(_import_json(found), indent=2) if as_json else "\n".join(_import_lines(found)))
    raise typer.Exit(SOME_FAILED if found.faults else COMPLETED)


def undo(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help=RUN_HELP)],
    row_id: Annotated[str, typer.Argument(metavar="ROW_ID", help="Row that a person has answered.")],
    ledger: LedgerOption = None,
    as_json: Annotated[bool, declared("as_json", help_text="Print one JSON object.")] = False,
) -> None:
    """Undo the last review of a row: its answer before that review counts again.

    That is the answer of an earlier review, or else that of the model. This applies to all rows of the run
    with the same prompt and settings, as the review did. Rows of other runs that took the answer of the
    person keep it.

    \b
    Examples:
      opencode-tasks review undo 20261127-143000-4e9a72 r17
    """  # noqa: D301  click reads the character \b
    from opencode_tasks.engine.review import undo_named_review

    with open_existing(ledger) as opened:
        run_id = named_run(opened, run_id)
        row = undo_named_review(opened, run_id, row_id)
    if as_json:
        names = ("status", "response", "structured", "answered_by")
        found = {"run_id": run_id, "row_id": row_id, **{name: row[name] for name in names}}
        typer.echo(json.dumps(found, indent=2))
        return
    answer = "" if row["response"] is None else f": {terminal_line(row['response'], MAX_ANSWER_CHARS)}"
    person = row["answered_by"]
    by = "" if person is None else f", as {terminal_line(person, MAX_ANSWER_CHARS)} answered"
    typer.echo(
        f"row {terminal_line(row_id, MAX_ANSWER_CHARS)} of run {run_id} is {row['status']} again{by}{answer}"
    )


def _export_lines(found: ReviewExport) -> list[str]:
    lines = [f"{count_of(found.rows)}, {found.drawn} of them drawn at random -> {', '.join(found.files)}"]
    parts = {
        "without an answer": found.unanswered,
        "left out, since a person has answered them": found.reviewed,
        "left out, since a row with the same prompt stands for them": found.equal,
    }
    lines += [f"{count_of(count)} {text}" for text, count in parts.items() if count]
    every = "all the random ones, for an accuracy that holds; " if found.drawn else ""
    lines.append(f"next: review rows of the file ({every}delete those that you leave out), then")
    return [*lines, "      opencode-tasks review import FILE"]


def _import_json(found: ReviewImport) -> dict[str, Any]:
    return {
        "run_id": found.run_id,
        "rows": dict(found.counts),
        "bad": list(found.faults),
        "other_rows": found.other_rows,
        "unchanged_rows": found.unchanged_rows,
        "newer_rows": found.newer_rows,
        "against_gold": list(found.against_gold),
        "random_rows": found.random_rows,
        "random_left": found.random_left,
        "quality": quality_json(found.quality),
    }


def _import_lines(found: ReviewImport) -> list[str]:
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    lines = [f"run {found.run_id}: {counts}", *(f"not imported: {fault}" for fault in found.faults)]
    if found.other_rows:
        lines.append(f"{count_of(found.other_rows)} of other runs: name such a run to import them")
    if found.unchanged_rows:
        lines.append(f"{count_of(found.unchanged_rows)} imported before: not changed")
    if found.newer_rows:
        lines.append(f"{count_of(found.newer_rows)} reviewed again since an earlier import: not changed")
    lines += _against_gold_lines(found)
    if found.quality:
        lines.append(
            f"the model on {count_of(found.random_rows)} drawn at random from those not reviewed before "
            "(right only if all of the drawn rows were reviewed):"
        )
        lines += [f"  {line}" for line in quality_lines({one.field: one for one in found.quality})]
        if found.random_left:
            lines.append(f"  {count_of(found.random_left)} more in this file, drawn too, without a judgement")
    elif found.random_rows:
        lines.append(f"the accuracy of the model needs scikit-learn: {install_hint('quality')}")
    return [
        *lines,
        f"next: opencode-tasks export {found.run_id} -o FILE writes OUTPUT with these answers;",
        "      opencode-tasks annotate takes them for rows with the same prompt and settings",
    ]


def _against_gold_lines(found: ReviewImport) -> list[str]:
    """A warning about confirmed answers that differ from the gold values of INPUT."""
    count = len(found.against_gold)
    if not count:
        return []
    names = ", ".join(terminal_line(one, MAX_ANSWER_CHARS) for one in found.against_gold[:SHOWN_ROWS])
    more = ", …" if count > SHOWN_ROWS else ""
    return [
        f"WARNING: {count_of(count)} confirmed whose answer differs from the gold value: {names}{more}",
        "      an answer that nobody changed counts as confirmed. Did nobody look at a row? Delete it",
        f"      from the file, undo it (opencode-tasks review undo {found.run_id} ROW_ID), and import again",
    ]


def user_name() -> str:
    """The name of the user; in a container there may be none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
