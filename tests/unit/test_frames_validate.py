# pandas, pyarrow and fsspec come without types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np
import pandas as pd

from opencode_tasks.frames.validate import PromptRow, check_frame, fault_lines


def test_a_good_frame() -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"], "id": [7, 8], "team": ["x", None]}, index=pd.Index([9, 9]))
    checked = check_frame(frame, id_column="id", labels=["team"])
    assert list(checked.rows) == [PromptRow(0, "7", "a", {"team": "x"}), PromptRow(1, "8", "b", {})]
    assert fault_lines(checked) == []


def test_without_an_id_column_the_position_is_the_id() -> None:
    checked = check_frame(pd.DataFrame({"prompt": ["a", "a"]}, index=pd.Index(["x", "y"])))
    assert [row.row_id for row in checked.rows] == ["0", "1"]


def test_a_template_makes_the_prompt() -> None:
    frame = pd.DataFrame({"text": ["a", None], "n": [1, 2]})
    checked = check_frame(frame, template="Label {text} {n}")
    assert [row.prompt for row in checked.rows] == ["Label a 1", ""]
    assert checked.row_faults == {1: "the column 'text' of the template is null"}


def test_empty_frames_are_runs_of_no_rows() -> None:
    assert len(check_frame(pd.DataFrame()).rows) == 0
    assert fault_lines(check_frame(pd.DataFrame())) == []
    assert fault_lines(check_frame(pd.DataFrame({"prompt": []}), id_column=None)) == []
    assert fault_lines(check_frame(pd.DataFrame({"other": []}))) != []


def test_every_fault_is_found_at_once() -> None:
    frame = pd.DataFrame(
        [["a", 1, 2, 3, 4, 5]], columns=pd.Index(["Prompts", "dup", "dup", "status", "row_id", "label"])
    )
    schema = {"type": "object", "properties": {"label": {}}}
    checked = check_frame(frame, id_column="key", labels=["none"], schema=schema)
    listed = "It has 'Prompts', 'dup', 'dup', 'status', 'row_id', 'label'"
    assert list(checked.rows) == []
    assert checked.faults == [
        f"INPUT has no column 'prompt' (--prompt-column); did you mean 'Prompts'? {listed}",
        f"INPUT has no column 'key' (--id-column). {listed}",
        f"INPUT has no column 'none' (--label). {listed}",
        "INPUT has 2 columns named 'dup'; rename all but one",
        "INPUT column 'status' is named like a column that OUTPUT adds; rename it",
        "INPUT column 'row_id' is named like our name for a row; give --id-column row_id or rename it",
        "INPUT column 'label' is named like a field of the schema; rename one of them",
    ]


def test_a_malformed_template_stands_beside_other_faults() -> None:
    checked = check_frame(pd.DataFrame({"status": ["x"]}), template="{a")
    assert [fault[:10] for fault in checked.faults] == ["--template", "INPUT colu"]


def test_row_id_may_be_the_id_column() -> None:
    frame = pd.DataFrame({"row_id": ["x"], "prompt": ["p"]})
    assert list(check_frame(frame, id_column="row_id").rows) == [PromptRow(0, "x", "p", {})]


def test_ids_are_there_once_and_are_text() -> None:
    ids = ["a", "b", 7, "7", "a", "a", "a", "a", None, " ", ["l"], "n\0", float("nan")]
    frame = pd.DataFrame({"id": pd.Series(ids, dtype=object), "prompt": "p"})
    twice = "row 0 (id 'a'), row 2 (id '7'), row 3 (id '7'), row 4 (id 'a'), row 5 (id 'a')"
    assert check_frame(frame, id_column="id").faults == [
        "INPUT column 'id' (--id-column): no id: row 8, row 9, row 12",
        "INPUT column 'id' (--id-column): not a text or a number that can be an id: row 10, row 11",
        f"INPUT column 'id' (--id-column): the same id more than once: {twice} and 2 more",
    ]


def test_faults_of_single_rows_leave_the_others() -> None:
    prompts = ["good", None, "", " \n", 5, "n\0l", "\ud800", "x" * 10_000_001, np.nan, "fine"]
    ids = [f"r{number}" for number in range(10)]
    frame = pd.DataFrame({"prompt": pd.Series(prompts, dtype=object), "id": ids})
    checked = check_frame(frame, id_column="id")
    assert checked.faults == []
    assert [row.prompt for row in checked.rows if row.prompt] == ["good", "fine"]
    assert set(checked.row_faults) == set(range(1, 9))
    assert fault_lines(checked) == [
        "INPUT: the prompt is null: row 1 (id 'r1'), row 8 (id 'r8')",
        "INPUT: the prompt is empty: row 2 (id 'r2'), row 3 (id 'r3')",
        "INPUT: the prompt is not text: row 4 (id 'r4')",
        "INPUT: the prompt holds a NUL character: row 5 (id 'r5')",
        "INPUT: the prompt holds half a character (a lone surrogate): row 6 (id 'r6')",
        "INPUT: the prompt is above 10 MB: row 7 (id 'r7')",
    ]


def test_faults_of_rows_are_found_beside_those_of_the_input() -> None:
    frame = pd.DataFrame({"prompt": [None, "p"], "status": ["x", "y"]})
    checked = check_frame(frame)
    assert list(checked.rows) == []
    assert fault_lines(checked) == [
        "INPUT column 'status' is named like a column that OUTPUT adds; rename it",
        "INPUT: the prompt is null: row 0",
    ]


def test_label_values_become_text_that_a_database_takes() -> None:
    frame = pd.DataFrame({"prompt": ["p"], "a": [["é"]], "b": ["\0\ud800"], "c": [True]})
    (row,) = check_frame(frame, labels=["a", "b", "c"]).rows
    assert row.labels == {"a": '["é"]', "b": "\\0\\ud800", "c": "True"}
