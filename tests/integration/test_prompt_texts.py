"""Prompts and system texts: from files, from columns, with examples, and with every kind of character."""

# pandas and pyarrow have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from engine_runs import Engine
from naughty import NAUGHTY
from pydantic import PositiveInt

from opencode_tasks import InputError, annotate
from opencode_tasks.engine.run import execute
from opencode_tasks.engine.thread_executor import ThreadExecutor
from opencode_tasks.frames.io import read_input
from opencode_tasks.ledger import Ledger
from opencode_tasks.orchestration.block_resolver import BlockResolver
from opencode_tasks.plan.command import PreparedRun, prepare
from opencode_tasks.testing import Reply, ScriptedProvider
from opencode_tasks.testing.scripted_backend import scripted_backend

HELPFUL = "You are a helpful assistant."


@pytest.fixture
def engine(tmp_path: Path, provider: ScriptedProvider) -> Iterator[Engine]:
    with scripted_backend(provider) as name:
        yield Engine(tmp_path, provider, {"backend": name})


def prepared(folder: Path, table: Mapping[str, list[Any]], **options: Any) -> PreparedRun:
    source = folder / "in.jsonl"
    pd.DataFrame(table).to_json(source, orient="records", lines=True)
    fixed: dict[str, Any] = {"backend": "null", "ledger": str(folder / "ledger.db")}
    return prepare(
        str(source), str(folder / "out.csv"), resolver=BlockResolver(), base_config={}, **fixed, **options
    )


def systems(engine: Engine) -> dict[str, str]:
    return {call.prompt: call.system for call in engine.provider.calls}


def test_each_row_has_its_own_system_text(engine: Engine) -> None:
    engine.frame = pd.DataFrame(
        {"prompt": list("abcd"), "role": ["Be kind.", None, "", "{file:missing} {x}"]}
    )
    plan = engine.plan(system_column="role")
    engine.execute(plan)
    assert systems(engine) == {"a": "Be kind.", "b": HELPFUL, "c": HELPFUL, "d": "{file:missing} {x}"}


def test_the_system_text_of_a_row_is_in_its_key(engine: Engine) -> None:
    engine.frame = pd.DataFrame({"prompt": ["a"] * 3, "role": ["x", "y", "x"]})
    engine.execute(engine.plan(system_column="role"))
    assert sorted(call.system for call in engine.provider.calls) == ["x", "y"]
    engine.frame = pd.DataFrame({"prompt": ["a"]})
    result = engine.execute(engine.plan(system="y"))
    assert result.frame["reused"].tolist() == [True]


@pytest.mark.parametrize(
    ("cell", "fault"),
    [("a\0", "a NUL character"), ("\ud800", "a lone surrogate")],
)
def test_a_system_text_that_cannot_be_sent_is_a_fault(tmp_path: Path, cell: Any, fault: str) -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"], "role": [None, cell]}, dtype=object)
    options: Any = {"system_column": "role", "backend": "null", "ledger": str(tmp_path / "ledger.db")}
    with pytest.raises(InputError) as caught:
        annotate(frame, **options)
    assert fault in caught.value.faults[0]
    assert "data row 2 (id '1')" in caught.value.faults[0]
    result = annotate(frame, bad_rows="fail", **options)
    assert result.frame["status"].tolist() == ["completed", "failed"]


def test_one_system_text_per_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--system and --system-column"):
        prepared(tmp_path, {"prompt": ["a"], "role": ["x"]}, system="y", system_column="role")
    with pytest.raises(InputError, match=r"no column 'rolle' \(--system-column\); did you mean 'role'"):
        prepared(tmp_path, {"prompt": ["a"], "role": ["x"]}, system_column="rolle")


@pytest.mark.parametrize("text", ["Be brief.\n", "@home {x}\r\n", "ü\ufeff", "@@"])
def test_texts_of_files_are_exact_and_read_once(tmp_path: Path, text: str) -> None:
    file = tmp_path / "system.txt"
    file.write_bytes(text.encode())
    run = prepared(tmp_path, {"prompt": ["a"]}, system=f"@{file}")
    assert run.plan.options.system == text
    file.unlink()
    again = prepared(tmp_path, {"prompt": ["a"]}, system=run.context.command["system"])
    assert again.plan.options.system == text
    assert again.plan.fingerprint == run.plan.fingerprint


def test_a_pipe_can_be_the_file(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"Say {prompt}\n")
    os.close(write)
    run = prepared(tmp_path, {"prompt": ["a"]}, template=f"@/dev/fd/{read}")
    os.close(read)
    assert [row.prompt for row in run.plan.rows] == ["Say a\n"]


def test_two_signs_are_one(tmp_path: Path) -> None:
    run = prepared(tmp_path, {"prompt": ["a"]}, system="@@home", template="@@{prompt}")
    assert run.plan.options.system == "@home"
    assert [row.prompt for row in run.plan.rows] == ["@a"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "No such file or directory; write @@ for a text that begins with @"),
        (b"\xff", "is not text in UTF-8"),
        (b"a\0", "a NUL character"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, content: bytes | None, fault: str) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, {"prompt": ["a"]}, system=f"@{file}", template=f"@{file}")
    assert [line.split(":")[0] for line in caught.value.faults] == ["--system", "--template"]
    assert all(fault in line for line in caught.value.faults)


def examples(folder: Path, table: Mapping[str, list[Any]], name: str = "examples.csv") -> str:
    frame = pd.DataFrame(table)
    path = folder / name
    if name.endswith("csv"):
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    return str(path)


def test_examples_are_rendered_as_rows_and_a_row_does_not_get_its_own(engine: Engine, tmp_path: Path) -> None:
    engine.frame = pd.DataFrame({"text": ["good", "new"]})
    path = examples(tmp_path, {"text": ["good", "bad {x}"], "response": ["positive", "negative"]})
    plan = engine.plan(examples=path, template="Label: {text}", system="Be brief.")
    result = engine.execute(plan)
    good, bad = "Prompt:\nLabel: good\n\nAnswer:\npositive", "Prompt:\nLabel: bad {x}\n\nAnswer:\nnegative"
    head = "Be brief.\n\nExamples of prompts, each with its answer:"
    assert systems(engine) == {
        "Label: good": f"{head}\n\n{bad}", "Label: new": f"{head}\n\n{good}\n\n{bad}",
    }  # fmt: skip
    assert result.counts["completed"] == 2
    again = engine.execute(engine.plan(examples=path, template="Label: {text}", system="Be brief."))
    assert again.frame["reused"].tolist() == [True, True]
    examples(tmp_path, {"text": ["bad {x}"], "response": ["negative"]})
    changed = engine.execute(engine.plan(examples=path, template="Label: {text}", system="Be brief."))
    assert changed.frame["reused"].tolist() == [True, False]


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"enum": ["a", "b"]},
        "stars": {"type": "integer"},
        "note": {"type": ["string", "null"]},
    },
    "required": ["label"],
}


@pytest.mark.parametrize(
    ("table", "options", "answer"),
    [
        ({"prompt": ["p"], "response": ["yes"]}, {}, "yes"),
        ({"prompt": ["p"], "answer": ["yes"]}, {}, "yes"),
        ({"prompt": ["p"], "response": ["old"], "ai_response": ["yes"]}, {"column_prefix": "ai_"}, "yes"),
        ({"prompt": ["p"], "response": ["A."]}, {"schema": {"enum": ["a", "b"]}}, "a"),
        (
            {"prompt": ["p"], "response": ["Label: **Good one**"]},
            {"schema": {"enum": ["good one", "b"]}},
            "good one",
        ),
        ({"prompt": ["p"], "response": ["Null"]}, {"schema": {"enum": ["a", "b", None]}}, "null"),
        ({"prompt": ["p"], "response": [' "[a] b"']}, {"schema": {"type": "string"}}, "[a] b"),
        ({"prompt": ["p"], "response": ['Sure: {"label": "a",}']}, {"schema": SCHEMA}, '{"label": "a"}'),
        ({"prompt": ["p"], "response": ['"{\\"label\\":\\"a\\"}"']}, {"schema": SCHEMA}, '{"label": "a"}'),
        ({"prompt": ["p"], "response": ['{"label":"a"}']}, {"schema": SCHEMA}, '{"label":"a"}'),
        ({"prompt": ["p"], "label": ["a"], "stars": [5]}, {"schema": SCHEMA}, '{"label": "a", "stars": 5}'),
        (
            {"prompt": ["p"], "x_label": ["b"], "x_note": ["5"], "x_stars": [None]},
            {"schema": SCHEMA, "column_prefix": "x_"},
            '{"label": "b", "note": "5"}',
        ),
        ({"prompt": ["p"], "response": ['{"label": "a"}']}, {"schema": SCHEMA}, '{"label": "a"}'),
    ],
)
@pytest.mark.parametrize("name", ["examples.csv", "examples.jsonl"])
def test_the_answer_of_an_example(
    engine: Engine,
    tmp_path: Path,
    table: Mapping[str, list[Any]],
    options: dict[str, Any],
    answer: str,
    name: str,
) -> None:
    plan = engine.plan(examples=examples(tmp_path, table, name), **options)
    assert f"Answer:\n{answer}" in (plan.rows.system.common or "").split("\n\n")


@pytest.mark.parametrize(
    ("table", "options", "fault"),
    [
        ({"prompt": ["p"]}, {}, "no column 'response' with the answers; it has prompt"),
        ({"prompt": ["p"], "x": ["1"], "y": ["2"]}, {}, "no column 'response'"),
        ({"text": ["p"], "response": ["x"]}, {}, "no column 'prompt'"),
        ({"prompt": ["p", "q"], "response": ["x", ""]}, {}, "data row 2 has no answer"),
        ({"prompt": [""], "response": ["x"]}, {}, "the prompt is empty: data row 1 (id '0')"),
        ({"prompt": ["p"], "response": ["c"]}, {"schema": {"enum": ["a"]}}, "data row 1 does not fit"),
        (
            {"prompt": ["p"], "response": ["-3"]},
            {"schema": {"type": "integer"}, "output_type": PositiveInt},
            "answer of data row 1 does not fit: $: Input should be greater than 0",
        ),
        ({"prompt": [], "response": []}, {}, "there is no example in it"),
    ],
)  # fmt: skip
def test_faults_of_examples(
    engine: Engine, tmp_path: Path, table: Mapping[str, list[Any]], options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InputError) as caught:
        engine.plan(examples=examples(tmp_path, table), **options)
    (line,) = caught.value.faults
    assert line.startswith(f"--examples {tmp_path / 'examples.csv'}: ")
    assert fault in line


def test_missing_examples_are_a_fault_with_the_others(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        engine.plan(examples=str(tmp_path / "none.csv"), label=["none"])
    assert len(caught.value.faults) == 2


def test_every_kind_of_text_passes_unchanged(engine: Engine) -> None:
    texts = list(NAUGHTY.values())
    engine.frame = pd.DataFrame({"prompt": texts, "role": texts[::-1], "id": list(NAUGHTY)})
    engine.provider.on("", Reply())
    result = engine.execute(
        engine.plan(system_column="role", id_column="id", label=["prompt"], template="{prompt}")
    )
    sent = {call.prompt: call.system for call in engine.provider.calls}
    assert sent == dict(zip(texts, texts[::-1], strict=True))
    assert result.frame["prompt"].tolist() == texts
    with Ledger.open(engine.ledger_url) as ledger:
        outcomes = ledger.results.outcomes(result.run_id)
    assert [outcome["labels"]["prompt"] for outcome in outcomes] == texts
    assert [outcome["row_id"] for outcome in outcomes] == list(NAUGHTY)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_kind_of_text_is_an_id_an_answer_and_a_cell(tmp_path: Path, suffix: str) -> None:
    texts = [text for name, text in NAUGHTY.items() if not name.startswith("long")]
    run = prepared(tmp_path, {"prompt": texts}, id_column="prompt", label=["prompt"])
    result = execute(run.plan, run.frame, executor=ThreadExecutor(), context=run.context)
    assert result.frame["response"].tolist() == texts
    output = tmp_path / f"out.{suffix}"
    run.output.__class__(name=str(output)).write(result.parts(), result.run_id)
    columns = read_input(str(output))
    for name in ("prompt", "response"):
        cells = columns[name].tolist()
        if suffix == "csv":
            cells = [cell.removeprefix("'") if cell[:2] in _PROTECTED else cell for cell in cells]
        assert cells == texts


# csv protects people who open it in a spreadsheet.
_PROTECTED = {f"'{sign}" for sign in "=+-@\t\r"}
