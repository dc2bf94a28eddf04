"""Review import: the judgements of a review file become answers of persons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from opencode_tasks.engine.quality import answer_in, fields_of, has_answer, kind_in
from opencode_tasks.engine.review import PersonAnswer, check_answers, schema_of, write_answers
from opencode_tasks.engine.review_gold import differs, known_values
from opencode_tasks.errors import InputError
from opencode_tasks.frames.answer_form import AnswerForm, answer_form, is_empty
from opencode_tasks.frames.cells import json_text
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.frames.csv_text import protected_text
from opencode_tasks.frames.review_file import read_review
from opencode_tasks.frames.review_task import Judgement
from opencode_tasks.frames.spreadsheet_forms import is_other_form
from opencode_tasks.ledger import Ledger, ModelAnswer
from opencode_tasks.quality.gold import FieldQuality, has_extra, measure

Verdict = Literal["confirmed", "corrected", "left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewImport:
    """The judgements of a review file about a run.

    ``counts`` has the number of rows by ``Verdict`` that were written now; rows without a judgement are left.
    ``faults`` are rows that were not written, one line each. ``other_rows`` belong to other runs.
    ``unchanged_rows`` were imported before with the same answer, person and note; ``newer_rows`` too, but
    were reviewed again since: they keep the newer answers. ``quality`` is that of the model on the
    ``random_rows`` that were drawn at random and judged; empty without such rows, or without the libraries
    for it. ``random_left`` rows of the file were drawn too and have no judgement. ``against_gold`` are the
    ids of confirmed rows whose answer differs from a gold value of INPUT: nobody may have looked at them.
    """

    run_id: str
    counts: Mapping[Verdict, int]
    faults: Sequence[str]
    other_rows: int
    random_rows: int
    random_left: int
    unchanged_rows: int
    newer_rows: int
    against_gold: Sequence[str]
    quality: Sequence[FieldQuality]


def import_review(
    ledger: Ledger,
    source: str,
    *,
    run_id: str | None = None,
    answered_by: str | None = None,
    default_person: str,
    skips_bad: bool = False,
    encoding: str | None = None,
) -> ReviewImport:
    """Write the judgements of a review file as answers of persons.

    ``run_id`` is the run of rows that name none; None is the only run in the file. ``answered_by`` names the
    person in place of the annotator in the file, ``default_person`` if the file names none. Raises InputError
    if the file cannot be read, and with one line for each row that does not fit, unless ``skips_bad``;
    nothing is written then.
    """
    read = read_review(source, encoding=encoding)
    run_id = run_id or _only_run(read(()), source)
    schema = schema_of(ledger, run_id)
    form = answer_form(schema)
    found = read(form.fields)
    outcomes = ledger.results.outcomes(run_id)
    keys = {one["row_id"]: one["row_key"] for one in outcomes}
    own = [_found(one, keys) for one in found if one.run_id in (None, run_id)]
    models = _models(ledger, run_id, outcomes)
    readable = [one for one in own if one.fault is None]
    judged = [one for one in readable if _is_judged(one)]
    faults = [f"row {one.row_id!r}: {one.fault}" for one in own if one.fault is not None]
    answers: list[PersonAnswer] = []
    # The files of annotation tools are JSON, and keep each text.
    is_table = not source.lower().endswith(".json")
    for one in judged:
        model = _value(models.get(one.row_id, ModelAnswer()), schema)
        answer, unread = form.answer(one.texts or {}, model)
        if is_table:
            unread = (*unread, *_other_forms(form, one.texts or {}, form.texts(model)))
        if unread:
            faults.append(f"row {one.row_id!r}: {'; '.join(unread)}")
        else:
            person = answered_by or one.answered_by or default_person
            answers.append(_answer(one, answer, person))
    valid, unfit = check_answers(ledger, run_id, answers)
    faults += unfit
    if faults and not skips_bad:
        raise InputError(
            (*faults, "nothing was imported; correct these rows, or leave them out with --skip-bad")
        )
    # A file that was imported before may be older than a review since then.
    current = {one.row_id: (one.answer, one.answered_by, one.note) for one in ledger.reviews.of_run(run_id)}
    history = {row_id: found for row_id, found in ledger.reviews.answers(run_id).items() if row_id in current}
    known = [one for one in valid if _is_known(one, history)]
    write_answers(ledger, run_id, [one for one in valid if not _is_known(one, history)])
    newer = {one.row_id for one in known if current[one.row_id] != (one.answer, one.answered_by, one.note)}
    known_ids = {one.row_id for one in known}
    by_row = {one.row_id: _verdict(one, models[one.row_id], schema) for one in valid}
    verdicts = [verdict for row_id, verdict in by_row.items() if row_id not in known_ids]
    gold = known_values(ledger, run_id, outcomes, schema)
    against_gold = [
        row_id
        for row_id, verdict in by_row.items()
        if verdict == "confirmed"
        and row_id not in newer
        and differs(asdict(models[row_id]), gold.get(keys[row_id], {}), schema)
    ]
    counts: dict[Verdict, int] = {name: verdicts.count(name) for name in get_args(Verdict)}
    judged_ids = {one.row_id for one in judged}
    left = {one.row_id: one for one in readable if one.row_id not in judged_ids}
    counts["left"] = len(left)
    drawn = [one for one in valid if one.is_random]
    return ReviewImport(
        run_id=run_id,
        counts=counts,
        faults=faults,
        other_rows=len(found) - len(own),
        random_rows=len(drawn),
        random_left=sum(one.is_random is True for one in left.values()),
        unchanged_rows=len(known) - len(newer),
        newer_rows=len(newer),
        against_gold=against_gold,
        quality=_quality(drawn, models, schema) if drawn and has_extra() else [],
    )


def _found(one: Judgement, keys: Mapping[str, str]) -> Judgement:
    """A judgement with the id of its row as the run has it, and with a fault if another row is meant."""
    plain = one.row_id.removeprefix("'")
    if one.row_id not in keys and protected_text(plain) == one.row_id:
        # A file for spreadsheets was saved in another format.
        one = replace(one, row_id=plain)
    if one.row_key and one.row_id in keys and keys[one.row_id] != one.row_key and one.fault is None:
        fault = "its row_key is that of another row; a spreadsheet may have changed the id, such as 007 to 7"
        return replace(one, fault=fault)
    return one


def _other_forms(
    form: AnswerForm, texts: Mapping[str, str | None], shown: Mapping[str, str | None]
) -> list[str]:
    """A line for each text of the model that stands in the file in the form of a spreadsheet program."""
    return [
        f"{field.title}: {text!r} is {original!r} as a spreadsheet program changes it; enter it as a text, "
        "or correct the row with opencode-tasks view"
        for field in form.fields
        if field.kind == "text"
        and (text := texts.get(field.name)) is not None
        and (original := shown.get(field.name)) is not None
        and is_other_form(text, original)
    ]


def _is_judged(one: Judgement) -> bool:
    """Whether a row of a file has an answer."""
    return one.texts is not None and not is_empty(one.texts)


def _is_known(one: PersonAnswer, history: Mapping[str, Sequence[tuple[Any, str, str | None]]]) -> bool:
    """Whether an answer is one of the reviews of its row."""
    return (one.answer, one.answered_by, one.note) in history.get(one.row_id, ())


def _only_run(found: Sequence[Judgement], source: str) -> str:
    """The run that all rows of a file name. Raises InputError if there is none, or more than one."""
    names = list(dict.fromkeys(one.run_id for one in found if one.run_id is not None))
    if not names:
        raise InputError((f"INPUT {source}: its rows name no run; give RUN_ID",))
    if len(names) > 1:
        raise InputError((f"INPUT {source}: its rows are of the runs {', '.join(names)}; name one: RUN_ID",))
    return names[0]


def _models(ledger: Ledger, run_id: str, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, ModelAnswer]:
    """The answers of the model to all rows of a run."""
    names = ("status", "response", "structured")
    found = {one["row_id"]: ModelAnswer(**{name: one[name] for name in names}) for one in outcomes}
    return found | ledger.reviews.model_answers(run_id)


def _value(model: ModelAnswer, schema: Mapping[str, Any] | None) -> Any:
    """The whole answer of the model; None without one."""
    if not has_answer(model.status, model.response):
        return None
    return answer_in(model.response, model.structured, RESPONSE.name, schema)


def _answer(one: Judgement, answer: Any, person: str) -> PersonAnswer:
    return PersonAnswer(
        row_id=one.row_id, answer=answer, answered_by=person, note=one.note, is_random=one.is_random
    )


def _verdict(one: PersonAnswer, model: ModelAnswer, schema: Mapping[str, Any] | None) -> Verdict:
    is_same = has_answer(model.status, model.response) and json_text(one.answer) == json_text(
        _value(model, schema)
    )
    return "confirmed" if is_same else "corrected"


def _quality(
    drawn: Sequence[PersonAnswer], models: Mapping[str, ModelAnswer], schema: Mapping[str, Any] | None
) -> list[FieldQuality]:
    """The quality of the model by field, on rows that were drawn at random."""
    answered = [one for one in drawn if has_answer(models[one.row_id].status, models[one.row_id].response)]
    qualities: list[FieldQuality] = []
    for field in fields_of(schema):
        pairs: list[tuple[Any, Any]] = []
        for one in answered:
            model = models[one.row_id]
            given = one.answer if schema is None else answer_in(None, one.answer, field, schema)
            pairs.append((given, answer_in(model.response, model.structured, field, schema)))
        qualities.append(measure(field, kind_in(schema, field), pairs, len(drawn) - len(answered)))
    return qualities
