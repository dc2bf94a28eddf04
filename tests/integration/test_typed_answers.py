"""Typed answers: ``output_type``, ``choices`` and schemas of any value, from the prompt to the table."""

# pandas and pyarrow have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
import pyarrow.parquet as pq
import pytest
from engine_runs import Engine
from pydantic import BaseModel, Field, ValidationError, WithJsonSchema, field_validator, model_validator
from typing_extensions import TypedDict

from opencode_tasks import InputError, annotate
from opencode_tasks.engine.export import export_run
from opencode_tasks.engine.result import AnnotationResult
from opencode_tasks.engine.run import execute
from opencode_tasks.engine.thread_executor import ThreadExecutor
from opencode_tasks.frames.arrow_frame import column_cells
from opencode_tasks.frames.io import read_input
from opencode_tasks.ledger import Ledger
from opencode_tasks.orchestration.block_resolver import BlockResolver
from opencode_tasks.outcomes.session_messages import repair_ids
from opencode_tasks.plan.command import prepare
from opencode_tasks.plan.options import choices_schema, make_options
from opencode_tasks.testing import Reply, ScriptedProvider
from opencode_tasks.testing.scripted_backend import scripted_backend


class Review(BaseModel):
    label: Literal["positive", "negative"]
    stars: int | None = None
    tags: list[str] = Field(default_factory=list)

    @field_validator("stars")
    @classmethod
    def _few(cls, stars: int | None) -> int | None:
        if stars == 13:
            raise ValueError("no review has 13 stars")
        return stars


@dataclass
class Route:
    team: str
    is_urgent: bool


class Place(TypedDict, total=False):
    city: str


Money = Annotated[Decimal, WithJsonSchema({"type": "string"})]


GOOD = '{"label": "positive", "stars": 9007199254740993, "tags": ["a"]}'


@pytest.fixture
def engine(tmp_path: Path, provider: ScriptedProvider) -> Iterator[Engine]:
    with scripted_backend(provider) as name:
        yield Engine(tmp_path, provider, {"backend": name}, rows=1)


def echo(tmp_path: Path, *answers: str, **options: Any) -> AnnotationResult[Any]:
    """The result of a run in which the model answers with these texts."""
    frame = pd.DataFrame({"prompt": list(answers)})
    return annotate(frame, backend="null", ledger=str(tmp_path / "ledger.db"), **options)


def test_a_model_gives_typed_columns_and_instances(tmp_path: Path) -> None:
    result = echo(tmp_path, GOOD, '{"label": "negative"}', "none", output_type=Review)
    columns = result.frame[["label", "stars", "tags"]]
    assert [str(columns[name].dtype) for name in columns.columns] == ["string", "Int64", "object"]
    assert columns["stars"].tolist()[:2] == [2**53 + 1, pd.NA]
    assert columns["tags"].tolist() == [["a"], None, None]
    assert result.answers == [
        Review(label="positive", stars=2**53 + 1, tags=["a"]), Review(label="negative"), None,
    ]  # fmt: skip
    assert result.frame["error_type"].tolist()[2] == "structured_output"


@pytest.mark.parametrize(
    ("output_type", "answer", "value"),
    [
        (Route, '{"team": "billing", "is_urgent": true}', Route("billing", is_urgent=True)),
        (Place, '{"city": "Paris"}', {"city": "Paris"}),
        (list[str], '["a", "b"]', ["a", "b"]),
        (int, "42", 42),
        (Literal["yes", "no"], "Yes.", "yes"),
        (Review | None, "null", None),
        (Decimal, '"12345678901234567.250"', Decimal("12345678901234567.250")),
        (Money, '"1.10"', Decimal("1.10")),
    ],
)
def test_other_types_of_pydantic(tmp_path: Path, output_type: Any, answer: str, value: Any) -> None:
    result = echo(tmp_path, answer, output_type=output_type)
    assert [str(answer) for answer in result.answers] == [str(value)]
    assert result.answers == [value]
    assert result.counts["completed"] == 1


def test_validators_of_the_type_check_the_answer(engine: Engine) -> None:
    engine.provider.on("", Reply(text='{"label": "positive", "stars": 13}'), Reply(text=GOOD))
    options = make_options({}, Review)
    result = engine.execute(engine.plan(schema=options.schema, output_type=Review))
    assert result.frame["stars"].tolist() == [2**53 + 1]
    assert "no review has 13 stars" in engine.provider.calls[1].prompt


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TypeError("no label"), "a validator of Checked raised TypeError: no label (in check)"),
        (KeyError("x"), "a validator of Checked raised KeyError: 'x' (in check)"),
        (RuntimeError(), "a validator of Checked raised RuntimeError (in check)"),
        (ZeroDivisionError("by zero"), "a validator of Checked raised ZeroDivisionError: by zero (in check)"),
    ],
)
def test_a_validator_that_raises_another_error_refuses_the_answer(
    engine: Engine, error: Exception, text: str
) -> None:
    class Checked(Review):
        @model_validator(mode="after")
        def check(self) -> Self:
            if self.label == "negative":
                raise error
            return self

    text = text.replace("Checked", Checked.__qualname__)
    options: Any = {"schema": Checked.model_json_schema(), "output_type": Checked}
    answers = ['{"label": "negative"}', '{"label": "negative"}', '{"label": "positive"}']
    engine.provider.on("", *(Reply(text=answer) for answer in answers))
    failed = engine.execute(engine.plan(**options, max_repairs=0)).frame
    assert failed[["response", "error_type", "error_message"]].to_numpy().tolist() == [
        [answers[0], "structured_output", text]
    ]
    result = engine.execute(engine.plan(**options))
    assert result.frame["label"].tolist() == ["positive"]
    assert text in engine.provider.calls[2].prompt


def test_a_broken_answer_after_a_draft_is_repaired(engine: Engine) -> None:
    broken = 'Draft: {"label": "negative"}\nBetter: {"label": "positive", "tags": ["he said "great""]}'
    engine.provider.on("", Reply(text=broken), Reply(text='{"label": "positive"}'))
    result = engine.execute(engine.plan(schema=Review.model_json_schema()))
    assert result.frame["label"].tolist() == ["positive"]
    assert "is broken at character" in engine.provider.calls[1].prompt


def test_an_answer_that_was_stored_before_the_validator_is_an_error_on_access(tmp_path: Path) -> None:
    text = '{"label": "positive", "stars": 13}'
    schema = Review.model_json_schema()
    assert echo(tmp_path, text, schema=schema).answers == [json.loads(text)]
    reused = echo(tmp_path, text, output_type=Review)
    assert reused.frame["reused"].tolist() == [True]
    with pytest.raises(ValidationError, match="13 stars"):
        _ = reused.answers


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"output_type": Engine}, "output_type: Engine has no JSON Schema"),
        (
            {"output_type": {"type": "string"}},
            "output_type: give a type; a JSON Schema or the name of its file is given by schema=",
        ),
        ({"output_type": {"type": "str"}}, "output_type: give a type"),
        ({"output_type": "schema.json"}, "output_type: give a type"),
        (
            {"output_type": lambda text: text},
            "<lambda> is a function; give a type, for example a pydantic model",
        ),
        ({"output_type": json.loads}, "output_type: loads is a function"),
        ({"output_type": len}, "output_type: len is a function"),
        ({"output_type": int, "schema": {}}, "--schema and output_type: each says what the answer is"),
        ({"choices": "a,b", "schema": {}}, "--schema and --choices: each says what the answer is"),
        (
            {"choices": "a"},
            "--choices: 'a' is one label; name at least two, with commas between them: --choices",
        ),
        ({"choices": "yes no  maybe"}, "with commas between them: --choices yes,no,maybe"),
        ({"choices": "a,,b"}, "--choices: a label is empty"),
        ({"choices": ["a", "b", "a "]}, "--choices: a label is named twice"),
        ({"choices": ["\u00e9", "e\u0301"]}, "--choices: a label is named twice"),
        ({"choices": '"a,b'}, "has a label in quotation marks that does not end with one"),
        ({"choices": '"a"b,c'}, "has a label in quotation marks that does not end with one"),
        ({"choices": '"a, b"'}, "--choices: 'a, b' is one label; name at least two"),
        ({"choices": 3}, "--choices: 3 is not"),
        ({"max_repairs": -1}, "--max-repairs: -1 is below 0"),
    ],
)
def test_faults_of_options_for_answers(tmp_path: Path, options: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError) as caught:
        echo(tmp_path, "x", **options)
    assert fault in caught.value.faults[0]


def test_choices_are_told_validated_and_repaired_once(engine: Engine) -> None:
    engine.frame = pd.DataFrame({"prompt": ["row 0", "row 1", "row 2"]})
    answers = (
        " **Positive**.\n",
        "not positive",
        "negative",
        "positive or\n\x07negative, I cannot say " + "x" * 99,
    )
    engine.provider.on("", *(Reply(text=text) for text in answers))
    options = make_options({"choices": "positive, negative"})
    result = engine.execute(engine.plan(schema=options.schema, choices=options.choices, concurrency=1))
    assert result.frame["response"].fillna("").tolist() == ["positive", "negative", ""]
    assert str(result.frame["response"].dtype) == "string"
    assert result.frame["error_type"].tolist()[2] == "structured_output"
    assert result.frame["error_message"].tolist()[2] == (
        "the answer is not one of the labels positive, negative; "
        f'the answer begins: "positive or negative, I cannot say {"x" * 63}…"'
    )
    assert all("exactly one of these labels" in call.system for call in engine.provider.calls)
    assert len(engine.provider.calls) == 5


@pytest.mark.parametrize(
    ("choices", "labels"),
    [
        ('"Food, drinks",Travel', ["Food, drinks", "Travel"]),
        ('Travel, "Food, ""fast"""', ["Travel", 'Food, "fast"']),
        ('5" disk, a "b"', ['5" disk', 'a "b"']),
        ("it's\n,b", ["it's", "b"]),
        (['"a"', "b,c"], ['"a"', "b,c"]),
    ],
)
def test_a_label_in_quotation_marks_may_have_commas(choices: str | list[str], labels: list[str]) -> None:
    assert choices_schema(choices)["enum"] == labels


def test_both_forms_of_an_accent_are_one_label_as_it_was_given(tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": ["caf\u00e9", "cafe\u0301"], "human": ["cafe\u0301", "caf\u00e9"]})
    options: Any = {"backend": "null", "ledger": str(tmp_path / "ledger.db")}
    result = annotate(frame, choices=["cafe\u0301", "tea"], gold=["human"], **options)
    assert result.frame["response"].tolist() == ["cafe\u0301"] * 2
    assert result.quality["response"].accuracy == 1


def test_failures_that_differ_by_the_answer_alone_are_one_group(engine: Engine, ledger_url: str) -> None:
    engine.ledger_url = ledger_url
    engine.frame = pd.DataFrame({"prompt": ["row 0", "row 1", "row 2"]})
    engine.provider.on("row 0", Reply(text="no idea")).on("row 1", Reply(text="who knows"))
    engine.provider.on("row 2", Reply(status=400, body={"error": {"message": "no; such"}}))
    options = make_options({"choices": "positive,negative"})
    engine.execute(engine.plan(schema=options.schema, choices=options.choices))
    run_id = engine.run()["run_id"]
    with Ledger.open(ledger_url) as ledger:
        groups = ledger.results.failure_messages(run_id, limit=3)
    assert [(group["failed_rows"], group["error_message"]) for group in groups] == [
        (2, "the answer is not one of the labels positive, negative"),
        (1, "HTTP 400: no; such"),
    ]


@pytest.mark.parametrize("repairs", [0, 1, 3])
def test_the_number_of_repairs_is_a_setting(engine: Engine, repairs: int) -> None:
    options = make_options({"choices": "positive,negative", "max_repairs": repairs})
    engine.provider.on("", Reply(text="perhaps", output_tokens=5))
    plan = engine.plan(schema=options.schema, max_repairs=repairs)
    result = engine.execute(plan)
    assert len(engine.provider.calls) == repairs + 1
    with Ledger.open(engine.ledger_url) as ledger:
        found: Any = ledger.results.row(result.run_id, "0")
    repaired = repair_ids(found["sessions"][0]["messages"])
    steps = [(step["output_tokens"], step["message_id"] in repaired) for step in found["usage"]]
    assert steps == [(5, False), *[(5, True)] * repairs]
    assert result.counts["failed"] == 1


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("prefix", [None, "ai_"])
def test_values_reach_every_format_and_an_export(tmp_path: Path, suffix: str, prefix: str | None) -> None:
    answers = ["[1, 2]", "[]", "[9007199254740993]"]
    pd.DataFrame({"prompt": answers}).to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "schema.json").write_text('{"type": "array", "items": {"type": "integer"}}')
    target, ledger = tmp_path / f"out.{suffix}", tmp_path / "ledger.db"
    prepared = prepare(
        str(tmp_path / "in.csv"),
        str(target),
        resolver=BlockResolver(),
        base_config={},
        schema=str(tmp_path / "schema.json"),
        column_prefix=prefix,
        backend="null",
        ledger=str(ledger),
    )
    result = execute(prepared.plan, prepared.frame, executor=ThreadExecutor(), context=prepared.context)
    prepared.output.write(result.parts(), result.run_id)
    exported = tmp_path / f"exported.{suffix}"
    with Ledger.open(str(ledger)) as opened:
        export_run(opened, result.run_id, str(exported), database=None)
    name = f"{prefix or ''}response"
    for path in (target, exported):
        cells = column_cells(pd.Series(read_input(str(path))[name]))
        if suffix == "csv":
            cells = [json.loads(cell) for cell in cells]
        assert [list(cell) for cell in cells] == [[1, 2], [], [2**53 + 1]]
    if suffix == "parquet":
        assert str(pq.read_schema(target).field(name).type).startswith("list<")


def test_output_can_be_input_with_a_prefix_again_and_again(tmp_path: Path) -> None:
    frame = pd.DataFrame({"instruction": ["x", "y"], "response": ["1", "2"], "status": ["a", "b"]})
    ledger = str(tmp_path / "ledger.db")
    with pytest.raises(InputError, match="--column-prefix new_"):
        annotate(frame, prompt_column="instruction", backend="null", ledger=ledger)
    options: Any = {"prompt_column": "instruction", "backend": "null", "ledger": ledger}
    first = annotate(frame, column_prefix="one_", **options).frame
    second = annotate(first, column_prefix="two_", **options)
    assert second.frame["response"].tolist() == ["1", "2"]
    assert second.frame[["one_response", "two_response"]].to_numpy().tolist() == [["x", "x"], ["y", "y"]]
    assert second.frame["two_reused"].tolist() == [True, True]
    with Ledger.open(ledger) as opened:
        export_run(opened, second.run_id, str(tmp_path / "again.csv"), database=None)
    assert "two_status" in read_input(str(tmp_path / "again.csv")).columns
