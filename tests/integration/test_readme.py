"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cluster import Desk

from opencode_tasks import OpenCodeAgent
from opencode_tasks.local_model import PROVIDER_MODEL_REF
from opencode_tasks.opencode.install import install_local_model

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_the_flow_block_annotates_with_the_local_model(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_local_model(print)
    monkeypatch.setenv("OPENCODE_TASKS_OPENCODE_BIN", str(desk.binary))
    (block,) = [text for text in blocks("python") if "annotate(" in text]
    assert PROVIDER_MODEL_REF in block
    frame = run(block)["label_tickets"]()
    assert list(frame["status"]) == ["completed", "completed"]
    assert all(frame["response"])
    assert "'completed': 2" in capsys.readouterr().out


def test_the_testing_block_runs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCODE_TASKS_OPENCODE_BIN", str(desk.binary))
    (block,) = [text for text in blocks("python") if "ScriptedProvider()" in text]
    names = run(block)
    assert names["llm"].last_metadata["usage"]["output_tokens"] == 1


def test_the_blocks_block_saves_what_an_agent_needs(prefect_server: str) -> None:
    del prefect_server
    (block,) = [text for text in blocks("python") if "OpenCodeCredentials(" in text]
    run(block)
    loaded: Any = OpenCodeAgent.load("reviewer")
    assert loaded.credentials.api_keys.get_secret_value() == {"anthropic": "sk-…"}


def test_every_command_of_the_readme_exists(desk: Desk) -> None:
    commands = set(re.findall(r"opencode-tasks ([a-z][a-z-]+)", "".join(blocks("console"))))
    assert {"setup", "doctor", "annotate"} <= commands
    for command in commands:
        assert desk.run(command, "--help").code == 0
