"""Canaries: a table of rows that each run sends anew, beside those of INPUT."""

# pandas has no complete type information.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pandas as pd

from opencode_tasks.attachments.address import folder_of
from opencode_tasks.domain.template import template_columns
from opencode_tasks.errors import InputError
from opencode_tasks.frames.columns import output_columns
from opencode_tasks.frames.io import read_input
from opencode_tasks.plan.options import Options

MAX_CANARIES = 500


def read_canaries(options: Options) -> pd.DataFrame:
    """The table of ``--canary``, without columns that OUTPUT adds and the prompt does not need.

    So the OUTPUT of a run can be the table. Raises InputError if it cannot be read, has no row, or too many.
    """
    assert options.canary is not None
    try:
        frame = read_input(options.canary)
    except InputError as error:
        raise InputError(tuple(renamed(fault, options) for fault in error.faults)) from None
    if not len(frame):
        raise InputError((f"{canary_name(options)}: there is no row in it",))
    if len(frame) > MAX_CANARIES:
        fault = f"it has {len(frame)} rows, which each run would pay for; the most are {MAX_CANARIES}"
        raise InputError((f"{canary_name(options)}: {fault}",))
    added = {column.name for column in output_columns(None, has_votes=True, has_escalation=True)}
    names = [str(name) for name in frame.columns]
    return frame.loc[:, [name not in added or name in _used(options, names) for name in names]]


def canary_options(options: Options, columns: Collection[str]) -> Options:
    """The options of the canaries: each is sent once by the model of the run, whatever INPUT's rows need."""
    return replace(
        options,
        canary=None,
        id_column=options.id_column if options.id_column in columns else None,
        label=(),
        gold=tuple(gold_in(options.gold, columns)),
        column_prefix=None,
        bad_rows="stop",
        pilot=None,
        votes=None,
        escalate_to=None,
        escalate_below=None,
        confidence=None,
        series=None,
        table_folder=None if options.canary is None else folder_of(options.canary),
    )


def gold_in(gold: Sequence[str], columns: Collection[str]) -> list[str]:
    """The values of ``--gold`` whose column a table has."""
    return [text for text in gold if text in columns or text.partition("=")[2].strip() in columns]


def canary_name(options: Options) -> str:
    """The option as messages name it."""
    return f"--canary {options.canary}"


def renamed(fault: str, options: Options) -> str:
    """A fault of an input as one of the canaries."""
    return f"{canary_name(options)}: {fault.removeprefix('INPUT ').removeprefix('INPUT: ')}"


def _used(options: Options, columns: Collection[str]) -> set[str]:
    """The columns of the canaries that the run uses, whatever their names."""
    try:
        sent = {options.prompt_column} if options.template is None else {*template_columns(options.template)}
    except InputError:
        sent = set[str]()
    of_gold = {text if text in columns else text.partition("=")[2].strip() for text in options.gold}
    named = (options.id_column, options.system_column, *options.file_columns)
    return sent | of_gold | {name for name in named if name is not None}
