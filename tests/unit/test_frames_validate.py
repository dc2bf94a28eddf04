# pandas, pyarrow and fsspec have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from opencode_tasks.frames.columns import OUTPUT, output_columns
from opencode_tasks.frames.validate import PromptRow, check_frame, fault_lines

OR_PREFIX = "or name the new columns with --column-prefix, for example --column-prefix new_"


def test_valid_frame() -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"], "id": [7, 8], "team": ["x", None]}, index=pd.Index([9, 9]))
    checked = check_frame(frame, id_column="id", labels=["team"])
    assert list(checked.rows) == [PromptRow(0, "7", "a", {"team": "x"}), PromptRow(1, "8", "b", {})]
    assert fault_lines(checked) == []


def test_position_is_the_id_if_there_is_no_id_column() -> None:
    checked = check_frame(pd.DataFrame({"prompt": ["a", "a"]}, index=pd.Index(["x", "y"])))
    assert [row.row_id for row in checked.rows] == ["0", "1"]


def test_template_renders_the_prompt() -> None:
    frame = pd.DataFrame({"text": ["a", None], "n": [1, 2]})
    checked = check_frame(frame, template="Label {text} {n}")
    assert [row.prompt for row in checked.rows] == ["Label a 1", ""]
    assert checked.row_faults == {1: "the column 'text' of the template is null"}


def test_a_template_without_a_column_is_a_fault_unless_rows_differ_otherwise() -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "path": ["x.txt", "y.txt"]})
    fault = (
        "--template names no {column}, so the prompts of all rows would be equal; name one of 'text', 'path'"
    )
    assert check_frame(frame, template="Is it {{good}}?").faults == [f"{fault} (a file: @FILE)"]
    for checked in (
        check_frame(frame, template="Sum it up.", system_column="path"),
        check_frame(frame, template="Sum it up.", workspace_column="path"),
    ):
        assert [row.prompt for row in checked.rows] == ["Sum it up.", "Sum it up."]
    rows = check_frame(frame, template="Sum it up.", file_columns=["path"], id_column="text").rows
    assert [(row.row_id, row.prompt, row.files) for row in rows] == [
        ("a", "Sum it up.", ("x.txt",)),
        ("b", "Sum it up.", ("y.txt",)),
    ]
    assert check_frame(frame, template=" ", file_columns=["path"]).row_faults == {
        0: "the prompt is empty",
        1: "the prompt is empty",
    }


def test_empty_frame_is_valid() -> None:
    assert len(check_frame(pd.DataFrame()).rows) == 0
    assert fault_lines(check_frame(pd.DataFrame())) == []
    assert fault_lines(check_frame(pd.DataFrame({"prompt": []}), id_column=None)) == []
    assert fault_lines(check_frame(pd.DataFrame({"other": []}))) != []


def test_a_table_without_prompts_needs_a_template() -> None:
    frame = pd.DataFrame({"id": ["a"], "text": ["b"]})
    way = 'write the prompts with --template "… {COLUMN} …", or name the column that holds them'
    assert check_frame(frame).faults == [
        f"INPUT has no column 'prompt' (--prompt-column); {way}. It has 'id', 'text'"
    ]
    named = check_frame(frame, prompt_column="question").faults
    assert named == ["INPUT has no column 'question' (--prompt-column). It has 'id', 'text'"]


def test_all_faults_are_found() -> None:
    frame = pd.DataFrame(
        [["a", 1, 2, 3, 4, 5]], columns=pd.Index(["Prompts", "dup", "dup", "status", "row_id", "label"])
    )
    schema = {"type": "object", "properties": {"label": {}}}
    checked = check_frame(frame, id_column="key", labels=["none"], added=output_columns(schema))
    listed = "It has 'Prompts', 'dup', 'dup', 'status', 'row_id', 'label'"
    assert list(checked.rows) == []
    assert checked.faults == [
        f"INPUT has no column 'prompt' (--prompt-column); did you mean 'Prompts'? {listed}",
        f"INPUT has no column 'key' (--id-column). {listed}",
        f"INPUT has no column 'none' (--label). {listed}",
        "INPUT has 2 columns named 'dup'; rename all but one",
        f"INPUT column 'status' has the name of a column that OUTPUT adds; rename it, {OR_PREFIX}",
        "INPUT column 'row_id' has a reserved name; use --id-column row_id or rename it",
        f"INPUT column 'label' has the name of a field of the schema; rename one of them, {OR_PREFIX}",
    ]


def test_output_as_input_is_one_fault() -> None:
    columns = ["prompt", *(column.name for column in OUTPUT)]
    (fault,) = check_frame(pd.DataFrame([[""] * len(columns)], columns=pd.Index(columns))).faults
    assert fault == (
        f"INPUT has columns that OUTPUT adds: response, status and {len(OUTPUT) - 2} more. It is probably "
        "the OUTPUT of a run: use the INPUT of that run, remove these columns, or name the new columns with "
        "--column-prefix, for example --column-prefix new_"
    )


def test_a_prefix_lets_every_input_column_be() -> None:
    columns = ["prompt", *(column.name for column in OUTPUT), "label"]
    frame = pd.DataFrame([["x"] * len(columns)], columns=pd.Index(columns))
    schema = {"type": "object", "properties": {"label": {}}}
    assert check_frame(frame, added=output_columns(schema, "ai_")).faults == []
    (fault,) = check_frame(frame.assign(ai_label=1), added=output_columns(schema, "ai_")).faults
    assert "'ai_label'" in fault


def test_two_columns_of_the_output_with_one_name_are_a_fault() -> None:
    frame = pd.DataFrame({"prompt": ["x"]})
    schema = {"type": "object", "properties": {"votes": {}, "label": {}, "label@p/x": {}}}
    added = output_columns(schema, has_votes=True, models=("p/x",))
    assert check_frame(frame, added=added).faults == [
        f"OUTPUT would have two columns named {name!r}; rename that field of the schema"
        for name in ("votes", "label@p/x")
    ]


@pytest.mark.parametrize("name", ["{x}", "a.b", " lead", "", "ü\u200b", 7, ("a", 1), None])
def test_odd_names_of_columns_can_be_used(name: object) -> None:
    frame = pd.DataFrame([["hello", "k"]], columns=pd.Index([name, "id"], dtype=object, tupleize_cols=False))
    checked = check_frame(frame, prompt_column=str(name), id_column="id", labels=[str(name)])
    assert list(checked.rows) == [PromptRow(0, "k", "hello", {str(name): "hello"})]
    assert checked.faults == []


def test_names_that_are_the_same_text_are_duplicates() -> None:
    frame = pd.DataFrame([["a", "b", "c"]], columns=pd.Index(["prompt", 1, "1"], dtype=object))
    assert check_frame(frame).faults == ["INPUT has 2 columns named '1'; rename all but one"]


@pytest.mark.parametrize(
    ("header", "separator"),
    [("id;prompt", "semicolons"), ("id\tprompt", "tabs"), ("a|prompt", "vertical bars")],
)
def test_wrong_separator_is_named(header: str, separator: str) -> None:
    (fault,) = check_frame(pd.DataFrame({header: ["x"]})).faults
    assert fault == (
        f"INPUT has no column 'prompt' (--prompt-column). The cells are separated by {separator}: "
        f"name the separator with --delimiter. It has {header!r}"
    )


def test_rows_without_columns_have_no_prompt() -> None:
    (fault,) = check_frame(pd.DataFrame(index=[0, 1])).faults
    assert fault.startswith("INPUT has no column 'prompt' (--prompt-column)")
    assert fault.endswith("It has no columns")


def test_malformed_template_is_listed_with_other_faults() -> None:
    checked = check_frame(pd.DataFrame({"status": ["x"]}), template="{a")
    assert [fault[:10] for fault in checked.faults] == ["--template", "INPUT colu"]


def test_row_id_can_be_the_id_column() -> None:
    frame = pd.DataFrame({"row_id": ["x"], "prompt": ["p"]})
    assert list(check_frame(frame, id_column="row_id").rows) == [PromptRow(0, "x", "p", {})]


def test_ids_are_unique_texts_or_numbers() -> None:
    ids = ["a", "b", 7, "7", "a", "a", "a", "a", None, " ", ["l"], "n\0", float("nan")]
    frame = pd.DataFrame({"id": pd.Series(ids, dtype=object), "prompt": "p"})
    repeated = ", ".join(
        f"data row {at} (id {row_id!r})" for at, row_id in zip((1, 3, 4, 5, 6), "a77aa", strict=True)
    )
    assert check_frame(frame, id_column="id").faults == [
        "INPUT column 'id' (--id-column): the id is empty: data row 9, data row 10, data row 13",
        "INPUT column 'id' (--id-column): the id is not a valid text or number: data row 11, data row 12",
        f"INPUT column 'id' (--id-column): the id is not unique: {repeated} and 2 more",
    ]


def test_an_id_fits_into_an_index_of_postgresql() -> None:
    frame = pd.DataFrame({"id": ["é" * 1_250, "é" * 1_251], "prompt": "p"})
    fault = "INPUT column 'id' (--id-column): the id is longer than 2,500 bytes: data row 2"
    assert check_frame(frame, id_column="id").faults == [fault]


def test_row_faults_do_not_affect_other_rows() -> None:
    prompts = ["good", None, "", " \n", 5, "n\0l", "\ud800", "x" * 10_000_001, np.nan, "fine"]
    ids = [f"r{number}" for number in range(10)]
    frame = pd.DataFrame({"prompt": pd.Series(prompts, dtype=object), "id": ids})
    checked = check_frame(frame, id_column="id")
    assert checked.faults == []
    assert [row.prompt for row in checked.rows if row.prompt] == ["good", "5", "fine"]
    assert set(checked.row_faults) == {1, 2, 3, 5, 6, 7, 8}
    assert fault_lines(checked) == [
        "INPUT: the prompt is null: data row 2 (id 'r1'), data row 9 (id 'r8')",
        "INPUT: the prompt is empty: data row 3 (id 'r2'), data row 4 (id 'r3')",
        "INPUT: the prompt contains a NUL character: data row 6 (id 'r5')",
        "INPUT: the prompt contains a lone surrogate (half of a character): data row 7 (id 'r6')",
        "INPUT: the prompt is longer than 10 MB: data row 8 (id 'r7')",
    ]


def test_row_faults_follow_input_faults() -> None:
    frame = pd.DataFrame({"prompt": [None, "p"], "status": ["x", "y"]})
    checked = check_frame(frame)
    assert list(checked.rows) == []
    assert fault_lines(checked) == [
        f"INPUT column 'status' has the name of a column that OUTPUT adds; rename it, {OR_PREFIX}",
        "INPUT: the prompt is null: data row 1",
    ]


def test_label_values_are_text_that_a_database_accepts() -> None:
    frame = pd.DataFrame({"prompt": ["p"], "a": [["é"]], "b": ["\0\ud800"], "c": [True]}, dtype=object)
    (row,) = check_frame(frame, labels=["a", "b", "c"]).rows
    assert row.labels == {"a": '["é"]', "b": "\\0\\ud800", "c": "True"}
