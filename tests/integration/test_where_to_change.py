"""The examples of "Where to change what": applied to a copy of the repository, checked and used there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Desk

from opencode_tasks.testing import Reply

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "where-to-change.md"
COPIED = ("opencode_tasks", "tests", "docs", "deployments", "pyproject.toml")
MAX_FILES = {
    "An option that decides the answer": 5,
    "A column of OUTPUT": 4,
    "An error class": 3,
    "A backend": 3,
    "A file format": 2,
}
PARITY_TESTS = ("options", "columns", "errors", "backend_table", "classify", "views", "docs")


def examples() -> dict[str, str]:
    """The diff of each section of the page."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {
        section.partition("\n")[0]: re.findall(r"```diff\n(.*?)```", section, re.DOTALL)
        for section in sections
    }
    return {title: diff for title, (diff,) in found.items()}


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with all examples applied."""
    copy = tmp_path_factory.mktemp("changed")
    ignored = shutil.ignore_patterns("__pycache__", "*.db*")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    for title, diff in examples().items():
        command = ["git", "apply", "--recount", "-"]
        done = subprocess.run(command, cwd=copy, input=diff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{title}: {done.stderr}"
    return copy


def run_python(changed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command,
        cwd=changed,
        env=os.environ | {"PYTHONPATH": str(changed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_each_example_changes_few_files() -> None:
    changes = {title: len(re.findall(r"^\+\+\+ ", diff, re.MULTILINE)) for title, diff in examples().items()}
    assert changes.keys() == MAX_FILES.keys()
    assert {title for title, files in changes.items() if files > MAX_FILES[title]} == set()


def test_the_checks_of_the_project_pass_with_the_examples(changed: Path) -> None:
    generated = run_python(changed, "docs/generate.py")
    assert generated.returncode == 0, generated.stderr
    tests = [f"tests/unit/test_{name}.py" for name in PARITY_TESTS]
    tested = run_python(changed, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert tested.returncode == 0, tested.stdout
    formatted = run_python(changed, "-m", "ruff", "check", "opencode_tasks")
    assert formatted.returncode == 0, formatted.stdout


def test_the_option_reaches_the_provider_and_decides_the_answer(changed: Path, desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": "hello"}])
    config = desk.provider.opencode_config()
    # opencode sends it to models that have the capability.
    config["provider"]["fake"]["models"]["echo"]["temperature"] = True
    (desk.folder / "warm.json").write_text(json.dumps(config), encoding="utf-8")
    for temperature in ("0.5", "0.5", "0.25"):
        ran = desk.run(
            *desk.arguments(
                "in.csv", "-o", "out.csv", "--opencode-config", "warm.json", "--temperature", temperature
            ),
            env={"PYTHONPATH": str(changed)},
        )
        assert ran.code == 0, ran.stderr
    assert [call.body["temperature"] for call in desk.provider.calls] == [0.5, 0.25]


def test_the_column_and_the_error_class_are_in_the_output(changed: Path, desk: Desk) -> None:
    desk.provider.on("bad", Reply(status=421, body={"error": {"message": "not in your region"}}))
    desk.write_csv("in.csv", [{"prompt": "good"}, {"prompt": "bad"}])
    ran = desk.run(*desk.arguments("in.csv", "-o", "out.csv"), env={"PYTHONPATH": str(changed)})
    assert ran.code == 1, ran.stderr
    rows = desk.read_csv("out.csv")
    found = [(row["status"], row["error_type"], row["attempts"], row["tool_calls"]) for row in rows]
    assert found == [("completed", "", "1", "0"), ("failed", "region_blocked", "1", "")]


def test_the_backend_and_the_format_are_used(changed: Path, desk: Desk) -> None:
    (desk.folder / "in.txt").write_text("hello\nworld\n", encoding="utf-8")
    ran = desk.run(
        *("annotate", "in.txt", "-o", "out.txt", "--backend", "upper", "--runner", "threads"),
        *("--ledger", str(desk.folder / "ledger.db")),
        env={"PYTHONPATH": str(changed)},
    )
    assert ran.code == 0, ran.stderr
    assert (desk.folder / "out.txt").read_text(encoding="utf-8") == "HELLO\nWORLD\n"
