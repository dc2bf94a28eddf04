"""The examples of the README, of the home page and of the page of blocks run as written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cluster import Desk

from opencode_tasks import OpenCodeAgent
from opencode_tasks.local_model import PROVIDER_MODEL_REF
from opencode_tasks.opencode.install import install_local_model

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
HOME = ROOT / "docs" / "index.md"
BLOCKS = ROOT / "docs" / "reference" / "blocks.md"


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run(block: str, page: Path) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": page.stem.lower()}
    exec(compile(block, page.name, "exec"), names)
    return names


@pytest.mark.nightly
def test_the_script_annotates_with_the_local_model(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_local_model(print)
    monkeypatch.setenv("OPENCODE_TASKS_OPENCODE_BIN", str(desk.binary))
    (block,) = code_blocks(README, "python")
    assert PROVIDER_MODEL_REF in block
    result = run(block, README)["result"]
    assert list(result.frame["status"]) == ["completed", "completed"]
    assert all(result.frame["response"])
    assert list(result.cost["rows"]) == [2]
    assert capsys.readouterr().out.count("completed") == 2


@pytest.mark.nightly
def test_the_example_of_the_home_page_prints_its_table(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_local_model(print)
    monkeypatch.setenv("OPENCODE_TASKS_OPENCODE_BIN", str(desk.binary))
    (block,) = code_blocks(HOME, "python")
    assert len(block.strip().splitlines()) <= 7
    # The page names a model that is not free.
    with pd.option_context("display.width", 1000, "display.max_columns", None):
        run(block.replace("anthropic/claude-haiku-4-5", PROVIDER_MODEL_REF), HOME)
    printed = capsys.readouterr().out
    head = re.search(r"^\| (\| .*) \|$", HOME.read_text(encoding="utf-8"), re.MULTILINE)
    assert head is not None
    columns = [name.strip() for name in head[1].split("|") if name.strip()]
    assert printed.splitlines()[0].split() == columns
    assert printed.count("completed") == 2


def test_the_example_of_blocks_saves_an_agent_with_its_credentials(prefect_server: str) -> None:
    del prefect_server
    (block,) = code_blocks(BLOCKS, "python")
    run(block, BLOCKS)
    loaded: Any = OpenCodeAgent.load("reviewer")
    assert loaded.credentials.api_keys.get_secret_value() == {"anthropic": "sk-…"}


def test_the_readme_has_at_most_900_words() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 900


def test_the_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text(encoding="utf-8"))
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_every_command_of_the_readme_exists(desk: Desk) -> None:
    commands = set(re.findall(r"opencode-tasks ([a-z][a-z-]+)", "".join(code_blocks(README, "console"))))
    assert {"setup", "doctor", "annotate"} <= commands
    for command in commands:
        assert desk.run(command, "--help").code == 0
