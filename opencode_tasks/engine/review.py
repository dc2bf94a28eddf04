"""Reviews: persons confirm or correct the answers of a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from opencode_tasks.domain.answer_schema import validate
from opencode_tasks.domain.answer_shape import shape_of
from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.text import no_row, none_of
from opencode_tasks.engine.quality import answer_in, fields_of, has_answer, kind_in, schema_of_run
from opencode_tasks.engine.run_check import checked_run
from opencode_tasks.errors import InputError
from opencode_tasks.frames.answer_form import answer_text
from opencode_tasks.ledger import GoldOf, Ledger, ModelAnswer, Review
from opencode_tasks.quality.gold import GoldKind, comparable


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonAnswer:
    """The answer of a person to a row.

    ``answer`` is the JSON value of ``response``, or with a schema of objects the object. ``is_random`` says
    whether the row was drawn at random for the review; None if that is not known.
    """

    row_id: str
    answer: Any
    answered_by: str
    note: str | None = None
    is_random: bool | None = None


def record_reviews(ledger: Ledger, run_id: str, answers: Sequence[PersonAnswer]) -> list[str]:
    """Write the answers of persons to rows of a run, and to all its rows with the same keys.

    An answer that does not fit is not written. Returns one line for each of these: there is no such row, the
    row is in flight, the answer is empty or does not fit the schema or the choices of the run, or two answers
    to equal rows differ. Raises InputError if there is no such run, or if its settings were purged.
    """
    valid, faults = check_answers(ledger, run_id, answers)
    write_answers(ledger, run_id, valid)
    return faults


def check_answers(
    ledger: Ledger, run_id: str, answers: Sequence[PersonAnswer]
) -> tuple[list[PersonAnswer], list[str]]:
    """The answers that ``record_reviews`` would write, and the faults of the others."""
    schema = schema_of(ledger, run_id)
    labels = () if schema is None else shape_of(schema).labels
    rows = {row.row_id: row for row in ledger.reviews.rows(run_id, [one.row_id for one in answers])}
    by_key: dict[str, PersonAnswer] = {}
    valid: dict[str, PersonAnswer] = {}
    faults: list[str] = []
    for one in answers:
        row = rows.get(one.row_id)
        other = None if row is None else by_key.get(row.row_key)
        if row is None:
            fault = f"run {run_id} has no such row"
        elif row.is_in_flight:
            fault = "it is in flight; review it when it has ended"
        elif other is not None and other.answer != one.answer:
            same = "it is" if other.row_id == one.row_id else f"row {other.row_id!r} with the same prompt is"
            fault = f"{same} there with another answer too"
        else:
            fault = _fault(one.answer, schema, labels)
        if row is None or fault is not None:
            faults.append(f"row {one.row_id!r}: {fault}")
            continue
        by_key.setdefault(row.row_key, one)
        # Of equal answers to one row the last one counts, with its note.
        valid[one.row_id] = one
    return [*valid.values()], faults


def write_answers(ledger: Ledger, run_id: str, answers: Sequence[PersonAnswer]) -> None:
    """Write answers that ``check_answers`` found to fit."""
    schema = schema_of(ledger, run_id)
    reviews = [
        Review(
            row_id=one.row_id,
            answer=one.answer,
            response=answer_text(one.answer),
            is_structured=schema is not None,
            answered_by=one.answered_by,
            note=one.note,
            is_random=one.is_random,
        )
        for one in answers
    ]
    ledger.reviews.record(run_id, reviews, now=datetime.now(UTC), gold_of=_gold_of(schema))


def undo_review(ledger: Ledger, run_id: str, row_id: str) -> bool:
    """Undo the last review of a row, and of the rows of the run with the same key.

    The review before it counts again; without one, the outcome of the model. Returns False if no person
    answered the row. Rows of other runs that took the answer keep it.
    """
    schema = schema_of_run(ledger, run_id)
    return ledger.reviews.undo(
        run_id,
        row_id,
        is_structured=schema is not None,
        now=datetime.now(UTC),
        gold_of=_gold_of(schema),
    )


def undo_named_review(ledger: Ledger, run_id: str, row_id: str) -> Mapping[str, Any]:
    """Do as ``undo_review`` and return the columns of the row, which has its answer before that review.

    Raises InputError if there is no such run or row, or no review in it that can be undone.
    """
    checked_run(run_id, ledger.row_list.run(run_id))
    if not undo_review(ledger, run_id, row_id):
        found = ledger.results.row(run_id, row_id)
        fault = no_row(run_id, row_id) if found is None else _no_review(run_id, row_id, found["row"])
        raise InputError((fault,))
    restored = ledger.results.row(run_id, row_id)
    assert restored is not None
    return restored["row"]


def _no_review(run_id: str, row_id: str, row: Mapping[str, Any]) -> str:
    """Why there is no review to undo."""
    if row["answered_by"] is None:
        return f"ROW_ID: no person has answered row {row_id!r} of run {run_id}"
    source = f"{row['source_run_id']} {shlex.quote(row['source_row_id'] or '')}"
    return (
        f"ROW_ID: row {row_id!r} took the answer of {row['answered_by']} from another run: "
        f"opencode-tasks review undo {source}, then annotate again"
    )


def schema_of(ledger: Ledger, run_id: str) -> Mapping[str, Any] | None:
    """The schema of a run; None for texts.

    Raises InputError if there is no such run, and if it is not known: an answer may not fit it then.
    """
    run = checked_run(run_id, ledger.row_list.run(run_id))
    parameters = mapping_in(run["parameters"])
    if "schema" not in parameters:
        raise InputError((f"run {run_id}: its settings were purged, so it cannot be reviewed",))
    return parameters["schema"]


def _fault(answer: Any, schema: Mapping[str, Any] | None, labels: Sequence[str]) -> str | None:
    """Why an answer does not fit; None if it does."""
    try:
        answer_text(answer)
    except (TypeError, ValueError, RecursionError):
        return "it is no JSON value"
    if schema is None:
        if not isinstance(answer, str):
            return "the answers of this run are texts"
        return None if answer.strip() else "the answer is empty"
    problems = validate(answer, schema)
    if problems and labels:
        return none_of(answer_text(answer), labels)
    return "; ".join(problems) or None


def _gold_of(schema: Mapping[str, Any] | None) -> GoldOf:
    """The gold values that an answer of a person gives; the shape of the schema is read once."""
    kinds: dict[str, GoldKind] = {field: kind_in(schema, field) for field in fields_of(schema)}

    def gold_of(answer: Any, model: ModelAnswer) -> Mapping[str, tuple[Any, bool | None]]:
        given = ModelAnswer(response=answer_text(answer), structured=answer)
        return {field: _gold(field, kind, given, model, schema) for field, kind in kinds.items()}

    return gold_of


def _gold(
    field: str, kind: GoldKind, given: ModelAnswer, model: ModelAnswer, schema: Mapping[str, Any] | None
) -> tuple[Any, bool | None]:
    value = answer_in(given.response, given.structured, field, schema)
    if not has_answer(model.status, model.response):
        return value, None
    found = answer_in(model.response, model.structured, field, schema)
    return value, comparable(value, kind) == comparable(found, kind)
