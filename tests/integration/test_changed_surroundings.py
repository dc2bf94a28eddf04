"""Keys, logins and config files that change while the process runs: the next prompt uses the new ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from opencode_tasks import AnnotationResult, AuthenticationError, OpenCodeLLM, RunPausedError, annotate
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.testing import Call, Reply, ScriptedProvider

RIGHT, WRONG = "sk-right-key", "sk-wrong-key"
AGENT = """---
mode: primary
tools:
  "*": false
---
{system}
"""


@dataclass
class User:
    """A user with a config folder, a login store and a process that stays."""

    folder: Path
    provider: ScriptedProvider
    binary: Path
    number: int = 0

    @property
    def login_store(self) -> Path:
        return self.folder / "data" / "opencode" / "auth.json"

    @property
    def config(self) -> Path:
        return self.folder / "config" / "opencode"

    def configure(self, api_key: str | None) -> None:
        config = self.provider.opencode_config(api_key=api_key)
        (self.config / "opencode.json").write_text(json.dumps(config))

    def annotate(self, prompt: str, **options: Any) -> AnnotationResult:
        options = {"model": "fake/echo", "on_wait": "raise", **options}
        return annotate(
            pd.DataFrame({"prompt": [prompt]}),
            opencode_bin=str(self.binary),
            ledger=str(self.folder / "ledger.db"),
            **options,
        )

    def llm(self) -> OpenCodeLLM:
        return OpenCodeLLM("fake/echo", opencode_bin=str(self.binary), retries=1)

    def is_refused(self) -> None:
        self.number += 1
        with pytest.raises(RunPausedError, match="authentication"):
            self.annotate(f"refused {self.number}")
        with pytest.raises(AuthenticationError):
            self.llm().prompt(f"refused {self.number}")

    def is_answered(self) -> None:
        self.number += 1
        prompt = f"answered {self.number}"
        assert list(self.annotate(prompt).frame["response"]) == [prompt]
        assert self.llm().prompt(prompt).result == prompt


@pytest.fixture
def user(
    tmp_path: Path, provider: ScriptedProvider, opencode_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[User]:
    server_pool.close()
    for name in ("data", "config"):
        (tmp_path / name / "opencode").mkdir(parents=True)
        monkeypatch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path / name))
    provider.on(is_wrong, Reply(status=401, body={"error": {"message": "Incorrect API key provided"}}))
    yield User(tmp_path, provider, opencode_binary)
    server_pool.close()


def is_wrong(call: Call) -> bool:
    return call.authorization != f"Bearer {RIGHT}"


def servers() -> list[int]:
    """The opencode servers of this process."""
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "serve" in child.cmdline()]


def in_the_environment(user: User, key: str) -> None:
    user.configure("{env:TEAM_KEY}")
    os.environ["TEAM_KEY"] = key


def in_a_file(user: User, key: str) -> None:
    user.configure(f"{{file:{user.folder}/key}}")
    (user.folder / "key").write_text(f"{key}\n")


def in_the_login_store(user: User, key: str) -> None:
    # As ``opencode auth login`` writes it.
    user.configure(None)
    user.login_store.write_text(json.dumps({"fake": {"type": "api", "key": key}}))


def in_the_config(user: User, key: str) -> None:
    user.configure(key)


@pytest.mark.parametrize("put", [in_the_environment, in_a_file, in_the_login_store, in_the_config])
def test_a_corrected_key_is_used_without_a_restart(
    user: User, put: Callable[[User, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_KEY", "")
    put(user, WRONG)
    user.is_refused()
    put(user, RIGHT)
    user.is_answered()
    # The server with the old key ends when nothing uses it.
    assert len(servers()) <= 1


def test_a_changed_agent_is_another_row(user: User) -> None:
    user.configure(RIGHT)
    agent = user.config / "agent" / "judge.md"
    agent.parent.mkdir()
    agent.write_text(AGENT.format(system="Answer in French."))
    assert user.annotate("one", agent="judge").counts["completed"] == 1
    again = user.annotate("one", agent="judge")
    assert list(again.frame["reused"]) == [True]
    agent.write_text(AGENT.format(system="Answer in Welsh."))
    changed = user.annotate("one", agent="judge")
    assert list(changed.frame["reused"]) == [False]
    systems = [call.system for call in user.provider.calls]
    assert ["French" in systems[0], "Welsh" in systems[1]] == [True, True]
    assert len(systems) == 2
