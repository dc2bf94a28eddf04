"""Review files: what is written can be read, edited by persons and other programs, and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opencode_tasks.frames.answer_form import AnswerField, answer_form
from opencode_tasks.frames.argilla import question_names, records_json
from opencode_tasks.frames.label_studio import judgement_in, labelling_config, tasks_json
from opencode_tasks.frames.review_file import read_review
from opencode_tasks.frames.review_table import answer_columns, review_frame
from opencode_tasks.frames.review_task import Judgement, ReviewTask
from opencode_tasks.frames.write_file import encoded
from opencode_tasks.quality.review_sample import (
    Candidate,
    choose,
    confidence_in,
    least_certain_first,
    reason_for,
)

HOSTILE = [
    *("=1+1", "'=1+1", "''=1+1", "@x", "-5", "-5 or 6", "+", "'", "''", "\t=1"),
    *('a "b", c', "one\ntwo\r\nthree\rfour", "a\0b", "a\ud800b", "\ud83d", "\ufffe", "_x0041_", "\x1f"),
    *("007", "1e5", "TRUE", "null", "[1]", "NA", "<&>\"'", "x" * 30_000),
]
OBJECT = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "note": {"enum": ["a", "b", None]},
        "stars": {"type": ["integer", "null"]},
        "price": {"type": "number"},
        "good": {"type": "boolean"},
        "tags": {"type": "array"},
    },
    "required": ["text"],
}
FORM = answer_form(OBJECT)


def task(answer: Any, row_id: str = "r", *, form: Any = FORM) -> ReviewTask:
    return ReviewTask(
        run_id="run",
        row_id=row_id,
        row_key="k",
        prompt="p",
        texts={} if answer is None else form.texts(answer),
        score=0.5,
        model_ref="p/m",
        is_random=row_id == "r",
    )


def write_table(suffix: str) -> Callable[[list[ReviewTask], Path], Path]:
    def write(tasks: list[ReviewTask], folder: Path) -> Path:
        path = folder / f"a.{suffix}"
        frame = review_frame(tasks, FORM.fields, protects_cells=suffix == "csv")
        path.write_bytes(encoded(frame, suffix))
        return path

    return write


def write_label_studio(tasks: list[ReviewTask], folder: Path) -> Path:
    found = json.loads(json.dumps(tasks_json(tasks, FORM.fields)))
    for one in found:
        one["annotations"] = [{"result": one["predictions"][0]["result"], "completed_by": 7}]
    (folder / "a.json").write_text(json.dumps(found))
    return folder / "a.json"


def write_argilla(tasks: list[ReviewTask], folder: Path) -> Path:
    found = json.loads(json.dumps(records_json(tasks, FORM.fields)))
    for one in found:
        one["responses"] = {
            name: [{"value": suggestion["value"], "user_id": "u"}]
            for name, suggestion in one["suggestions"].items()
        }
        one["status"] = "completed"
    (folder / "a.json").write_text(json.dumps(found))
    return folder / "a.json"


WRITERS = {
    "csv": write_table("csv"),
    "xlsx": write_table("xlsx"),
    "labelstudio": write_label_studio,
    "argilla": write_argilla,
}


def answers_of(text: str) -> dict[str, Any]:
    return {"text": text, "note": "a", "stars": 2**60, "price": 4.5, "good": False, "tags": [{"a": "é"}]}


@pytest.mark.parametrize("name", WRITERS)
def test_what_nobody_changed_is_the_same_answer(name: str, tmp_path: Path) -> None:
    answers = {f"{at}": answers_of(text) for at, text in enumerate(HOSTILE)}
    answers["nulls"] = {"text": "x", "note": None, "extra": 1}
    path = WRITERS[name]([task(answer, row_id) for row_id, answer in answers.items()], tmp_path)
    found = {one.row_id: one for one in read_review(str(path))(FORM.fields)}
    assert list(found) == list(answers)
    for row_id, one in found.items():
        assert FORM.answer(one.texts or {}, answers[row_id])[0] == answers[row_id], answers[row_id]["text"]
        assert (one.run_id, one.is_random, one.fault) == ("run", False, None)


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        ({"text": "new\n"}, {"text": "new\n"}),
        ({"note": "b"}, {"note": "b"}),
        ({"note": " b "}, {"note": "b"}),
        ({"note": None}, {"note": None}),
        ({"stars": "5"}, {"stars": 5}),
        ({"stars": ""}, {"stars": None}),
        ({"price": "4.50"}, {}),
        ({"good": "FALSE"}, {}),
        ({"good": "TRUE"}, {"good": True}),
        ({"tags": "[1]"}, {"tags": [1]}),
    ],
)
def test_a_changed_text_is_a_value_of_the_type_of_the_field(
    changed: dict[str, str | None], answer: dict[str, Any]
) -> None:
    model = answers_of("x")
    assert FORM.answer(FORM.texts(model) | changed, model) == (model | answer, ())


def test_a_field_that_is_emptied_is_left_out_if_it_may_not_be_null() -> None:
    model = answers_of("x")
    assert "price" not in FORM.answer(FORM.texts(model) | {"price": ""}, model)[0]


def test_answers_that_are_no_objects() -> None:
    labels = answer_form({"enum": ["yes", "a\0b", None]})
    assert labels.answer({"response": "a\N{REPLACEMENT CHARACTER}b"}, "yes") == ("a\0b", ())
    assert labels.answer({"response": None}, None) == (None, ())
    arrays = answer_form({"type": "array"})
    assert arrays.answer({"response": "[1, 3]"}, [1, 2]) == ([1, 3], ())
    assert answer_form(None).answer({"response": "5"}, "4") == ("5", ())


@pytest.mark.parametrize(
    ("types", "model", "text", "answer"),
    [
        (["string", "number"], 5, "6", 6),
        (["string", "number"], "5", "6", "6"),
        (["string", "number"], 5, "true", "true"),
        (["string", "number"], 5, "six", "six"),
        (["string", "boolean"], True, "FALSE", False),
        (["integer", "boolean"], 1, "true", True),
        (["string", "null"], None, "", None),
        (["string", "null"], "x", "", None),
        (["string", "null"], None, "null", "null"),
        (["number", "null"], 5, "", None),
        (["number", "null"], None, "", None),
        ("object", {"a": 1}, '{"a": 2}', {"a": 2}),
        ("string", "x", "a\r\nb", "a\nb"),
    ],
)
def test_a_text_is_read_by_the_types_and_by_the_value_before(
    types: Any, model: Any, text: str, answer: Any
) -> None:
    """As the whole answer, and as a field that the schema names or does not describe."""
    found = answer_form({"type": types}).answer({"response": text}, model)
    assert (found, type(found[0])) == ((answer, ()), type(answer))
    fields = answer_form({"type": "object", "properties": {"a": {"type": types}}})
    assert fields.answer({"a": text}, {"a": model}) == ({"a": answer}, ())


def test_a_value_of_unknown_type_stays_what_it_was() -> None:
    form = answer_form({"type": "object", "properties": {"a": {}, "b": {"description": "any"}}})
    assert form.answer({"a": "6", "b": "7"}, {"a": 5, "b": "5"}) == ({"a": 6, "b": "7"}, ())


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("number", "five", "a number"),
        ("number", "NaN", "a number"),
        ("boolean", "perhaps", "true or false"),
        ("array", "[" * 100_000, "a JSON value"),
        ("array", "[1", "a JSON value"),
    ],
)
def test_a_text_that_means_no_value_is_a_fault(kind: str, text: str, expected: str) -> None:
    form = answer_form({"type": "object", "properties": {"a": {"type": kind}}})
    _, [fault] = form.answer({"a": text}, {"a": None})
    assert fault.startswith(f"a: {text[:50]!r} is not {expected}")


def test_an_object_without_named_fields_is_one_json_text() -> None:
    form = answer_form({"type": "object"})
    assert [(one.name, one.kind) for one in form.fields] == [("response", "json")]
    assert form.texts({"a": 1}) == {"response": '{"a": 1}'}
    assert form.answer({"response": '{"a": 1}'}, {"a": 1}) == ({"a": 1}, ())


def test_null_among_choices_is_chosen_by_a_person() -> None:
    form = answer_form({"type": "object", "properties": {"a": {"enum": ["x", None]}, "b": {"enum": ["y"]}}})
    assert form.answer({"a": None, "b": "y"}, {}) == ({"b": "y"}, ())
    assert form.answer({"a": "", "b": "y"}, {}) == ({"a": None, "b": "y"}, ())


def test_a_choice_may_have_the_other_form_of_an_accent() -> None:
    form = answer_form({"enum": ["caf\u00e9", "tea"]})
    assert form.answer({"response": "cafe\u0301"}, "tea") == ("caf\u00e9", ())


def test_columns_of_fields_that_are_named_like_others() -> None:
    fields = [AnswerField(name=name, types=None) for name in ("note", "answer_note", "label")]
    assert answer_columns(fields) == {
        "note": "answer_answer_note",
        "answer_note": "answer_note",
        "label": "label",
    }
    assert question_names([AnswerField(name=name, types=None) for name in ("A b", "a_b", "é")]) == {
        "A b": "a_b",
        "a_b": "a_b_",
        "é": "answer",
    }
    config = labelling_config([AnswerField(name="prompt", types=None, choices=("a\0<\n",))])
    assert '<Text name="_prompt" value="$prompt"/>' in config
    assert '<Choice value="a\N{REPLACEMENT CHARACTER}&lt;&#10;"/>' in config


def test_annotations_that_differ_are_a_fault() -> None:
    result = [{"from_name": "response", "value": {"choices": ["yes"]}}]
    record = {
        "data": {"row_id": "r"},
        "annotations": [{"result": result, "completed_by": 1}, {"result": [], "completed_by": 2}],
    }
    fields = answer_form({"enum": ["yes", "no"]}).fields
    found = judgement_in(record, fields)
    assert found.fault == "its annotations differ; keep one of them"
    assert judgement_in({"data": {"row_id": "r"}, "annotations": []}, fields) == Judgement(row_id="r")


def test_the_least_certain_rows_come_first() -> None:
    candidates = [
        Candidate(position=0, has_answer=True),
        Candidate(position=1, has_answer=True, confidence=0.9),
        Candidate(position=2, has_answer=True, confidence=0.2),
        Candidate(position=3, has_answer=True, agreement=0.9, confidence=0.1),
        Candidate(position=4, has_answer=False),
        Candidate(position=5, has_answer=True, needs_review=True),
        Candidate(position=6, has_answer=True),
        Candidate(position=7, has_answer=True, agreement=1.0, differs=True),
    ]
    ordered = least_certain_first(candidates)
    assert [one.position for one in ordered] == [5, 4, 7, 3, 2, 1, 0, 6]
    assert [reason_for(one, is_random=False) for one in ordered] == [
        *("needs review", "no answer", "differs from gold", "low agreement"),
        *("by confidence", "by confidence", "no doubt known", "no doubt known"),
    ]
    assert reason_for(candidates[-1], is_random=True) == "random, differs from gold"
    assert reason_for(candidates[-2], is_random=True) == "random"
    first, drawn = choose(candidates, limit=4, share=0.5, seed="s")
    assert (len(first), len(drawn)) == (2, 2)
    assert not {one.position for one in first} & {one.position for one in drawn}
    assert all(one.has_answer for one in drawn)
    assert choose(candidates, limit=4, share=0.5, seed="s") == (first, drawn)
    assert choose(candidates, limit=None, share=0, seed="s")[1] == []
    assert len(choose(candidates, limit=3, share=0.01, seed="s")[1]) == 1
    assert choose([], limit=None, share=0.2, seed="s") == ([], [])


def test_remarks_leave_the_column_of_a_field_alone(tmp_path: Path) -> None:
    form = answer_form({"type": "object", "properties": {"reason": {"type": "string"}}})
    own = task({"reason": "it broke"}, form=form)
    tasks = [replace(own, reason="low agreement", agreement=0.5, gold='{"reason": "=x"}')]
    frame = review_frame(tasks, form.fields, protects_cells=True)
    assert frame["reason"].to_list() == ["it broke"]
    assert frame["review_reason"].to_list() == ["low agreement"]
    path = tmp_path / "a.csv"
    path.write_bytes(encoded(frame, "csv"))
    (found,) = read_review(str(path))(form.fields)
    assert found.texts == {"reason": "it broke"}
    metadata = records_json(tasks, form.fields)[0]["metadata"]
    assert (metadata["agreement"], metadata["gold"]) == (0.5, '{"reason": "=x"}')


def test_the_confidence_in_an_answer() -> None:
    assert confidence_in({"confidence": 0.3, "score": 1}) == 0.3
    assert confidence_in({"score": True, "probability": 1}) == 1.0
    assert confidence_in({"label": "a", "score": "high"}) is None
