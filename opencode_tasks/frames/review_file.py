"""Review files of every format, read by their content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from opencode_tasks.errors import InputError
from opencode_tasks.frames import argilla, label_studio
from opencode_tasks.frames.answer_form import AnswerField
from opencode_tasks.frames.content import InputFile
from opencode_tasks.frames.formats import format_of
from opencode_tasks.frames.io import read_table
from opencode_tasks.frames.review_table import judgements_in
from opencode_tasks.frames.review_task import Judgement

ReadJudgements = Callable[[Sequence[AnswerField]], list[Judgement]]


def read_review(name: str, *, encoding: str | None = None) -> ReadJudgements:
    """Return the function that reads the judgements in a file, given the fields of the answers.

    Without fields, it reads everything but the answers. ``encoding`` is that of a CSV file. Raises InputError
    if the file cannot be read, or if it is not one that a review made.
    """
    found = format_of(name)
    if found is not None and found.name == "json":
        records = _records(name)
        for is_format, judgement_in in (
            (label_studio.is_label_studio, label_studio.judgement_in),
            (argilla.is_argilla, argilla.judgement_in),
        ):
            if all(map(is_format, records)):
                return lambda fields: [judgement_in(record, fields) for record in records]
        raise InputError((f"INPUT {name}: neither tasks of Label Studio nor records of Argilla",))
    frame = read_table(name, encoding=encoding).frame
    if "row_id" not in map(str, frame.columns):
        raise InputError((f"INPUT {name}: no column 'row_id'; use a file of opencode-tasks review export",))
    is_text = found is not None and found.name in ("csv", "tsv")
    return lambda fields: list(_named(judgements_in(frame, fields, protects_cells=is_text), name))


def _named(judgements: Iterable[Judgement], name: str) -> Iterable[Judgement]:
    """The judgements; a fault of the table gets the name of the file."""
    try:
        yield from judgements
    except InputError as error:
        raise InputError(tuple(f"INPUT {name}: {fault}" for fault in error.faults)) from None


def _records(name: str) -> list[Mapping[str, Any]]:
    with InputFile(name=name).open_bytes() as file:
        content = file.read()
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError((f"INPUT {name}: not JSON: {error}",)) from None
    if not isinstance(found, list) or not found:
        raise InputError((f"INPUT {name}: not a JSON list of tasks or records",))
    records = cast("list[Any]", found)
    if not all(isinstance(record, Mapping) for record in records):
        raise InputError((f"INPUT {name}: not a JSON list of tasks or records",))
    return cast("list[Mapping[str, Any]]", records)
