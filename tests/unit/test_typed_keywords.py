"""Editors and type checkers know the keywords of the public functions: pyright, run on a user's file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import blocks_of

PYRIGHT = Path(sys.executable).with_name("pyright")
VENV = Path(sys.prefix)
RIGHT = """
import pandas as pd
from opencode_tasks import annotate

def right(frame: pd.DataFrame) -> None:
    annotate(frame, model="a/b", label=["team"], timeout=30, on_budget="skip", schema={"type": "object"})
"""
WRONG = """
import pandas as pd
from opencode_tasks import annotate
from opencode_tasks.orchestration.flows import annotate_dataset

def wrong(frame: pd.DataFrame) -> None:
    annotate(frame, modle="a/b")
    annotate(frame, timeout="30")
    annotate(frame, on_budget="stop")
    annotate_dataset("in.csv", "out.csv", runer="ray")
    annotate_dataset("in.csv", "out.csv", runner="rays")
"""


TYPED = """
import pandas as pd
from pydantic import BaseModel
from typing_extensions import assert_type
from opencode_tasks import AnnotationResult, annotate

class Review(BaseModel):
    label: str

def typed(frame: pd.DataFrame, result: AnnotationResult) -> None:
    assert_type(annotate(frame, output_type=Review).answers, list[Review | None])
    assert_type(annotate(frame, output_type=list[str]).answers, list[list[str] | None])
"""


def label_example() -> str:
    """The documented example of typed answers."""
    (block,) = [one for one in blocks_of("how-to/write-your-own-flow.md") if one.title == "label.py"]
    assert len([line for line in block.text.splitlines() if line]) < 15
    return block.text


@pytest.mark.slow
def test_a_mistyped_keyword_and_a_wrong_type_are_errors(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "typed.py").write_text(TYPED)
    (tmp_path / "label.py").write_text(label_example())
    config: dict[str, Any] = {"venvPath": str(VENV.parent), "venv": VENV.name, "typeCheckingMode": "strict"}
    # pandas has none.
    config["reportMissingTypeStubs"] = False
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    done = subprocess.run(
        [PYRIGHT, "--outputjson"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240
    )
    diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    assert [one for one in diagnostics if Path(one["file"]).name in ("label.py", "typed.py")] == [], (
        done.stdout
    )
    found = [
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1)
        for one in diagnostics
        if one["severity"] == "error" and one["rule"] in ("reportCallIssue", "reportArgumentType")
    ]
    assert sorted(set(found)) == [("wrong.py", line) for line in (7, 8, 9, 10, 11)], done.stdout
