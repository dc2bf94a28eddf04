"""Keys, logins and config files that change while the process runs: the next prompt uses the new ones."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opencode_tasks import AnnotationResult, AuthenticationError, OpenCodeLLM, RunPausedError, annotate
from opencode_tasks.engine.ask import ask
from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.backend import Clocks, OpencodeSpec, Request
from opencode_tasks.opencode.instance_dir import instance_dirs_root
from opencode_tasks.opencode.server_pool import ServerPool, server_pool
from opencode_tasks.testing import Call, Reply, ScriptedProvider

RIGHT, WRONG = "sk-right-key", "sk-wrong-key"
LIMIT_S = 60
IDLE_S = 0.5
CLOCKS = Clocks(total_s=100)
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

    @property
    def login_store(self) -> Path:
        return self.folder / "data" / "opencode" / "auth.json"

    @property
    def config(self) -> Path:
        return self.folder / "config" / "opencode"

    def configure(self, api_key: str | None) -> None:
        config = self.provider.opencode_config(api_key=api_key)
        (self.config / "opencode.json").write_text(json.dumps(config))

    def define_judge(self, system: str) -> Path:
        """Write the agent ``judge`` with a system text; its file."""
        agent = self.config / "agent" / "judge.md"
        agent.parent.mkdir(exist_ok=True)
        agent.write_text(AGENT.format(system=system))
        return agent

    def annotate(self, *prompts: str, **options: Any) -> AnnotationResult:
        options = {"model": "fake/echo", "on_wait": "raise", **options}
        return annotate(
            pd.DataFrame({"prompt": list(prompts)}),
            opencode_bin=str(self.binary),
            ledger=str(self.folder / "ledger.db"),
            **options,
        )

    def llm(self) -> OpenCodeLLM:
        return OpenCodeLLM("fake/echo", opencode_bin=str(self.binary), retries=1)


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


def servers() -> set[str]:
    """The instance directories of the user's opencode servers; each is removed after its server."""
    return {folder.name for folder in instance_dirs_root().glob("*")}


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert holds()


@pytest.mark.nightly
def test_a_corrected_key_is_used_without_a_restart(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    user.configure("{env:TEAM_KEY}")
    monkeypatch.setenv("TEAM_KEY", WRONG)
    with pytest.raises(RunPausedError, match="authentication"):
        user.annotate("one")
    os.environ["TEAM_KEY"] = RIGHT
    assert list(user.annotate("one").frame["response"]) == ["one"]
    assert user.llm().prompt("two").result == "two"
    with Ledger.open(str(user.folder / "ledger.db")) as ledger:
        # The gate that the wrong key closed stays closed, for that key alone.
        [gate] = ledger.gates.list(now=datetime.now(UTC))
        assert gate.error_type == "authentication_failed"


@pytest.mark.nightly
def test_each_place_of_a_key_is_looked_at_again(user: User) -> None:
    provider = user.provider

    def used(prompt: str) -> str:
        user.llm().prompt(prompt)
        return provider.calls[-1].authorization.removeprefix("Bearer ")

    provider._rules.clear()
    key_file = user.folder / "key"
    user.configure(f"{{file:{key_file}}}")
    key_file.write_text("in-file-1\n")
    assert used("one") == "in-file-1"
    key_file.write_text("in-file-2\n")
    assert used("two") == "in-file-2"
    user.configure(None)
    # As ``opencode auth login`` writes it.
    user.login_store.write_text(json.dumps({"fake": {"type": "api", "key": "in-store-1"}}))
    assert used("three") == "in-store-1"
    user.login_store.write_text(json.dumps({"fake": {"type": "api", "key": "in-store-2"}}))
    assert used("four") == "in-store-2"
    until(lambda: len(servers()) == 1)


@pytest.mark.nightly
def test_a_prompt_in_flight_ends_on_the_server_with_the_old_key(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    user.configure("{env:TEAM_KEY}")
    monkeypatch.setenv("TEAM_KEY", RIGHT)
    user.provider.on("slow", Reply(delay_s=40.0))
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(user.llm().prompt, "slow")
        until(lambda: "slow" in user.provider.prompts())
        old = servers()
        os.environ["TEAM_KEY"] = WRONG
        with pytest.raises(AuthenticationError):
            user.llm().prompt("refused")
        assert not slow.done()
        assert old < servers()
        assert slow.result().result == "slow"
    until(lambda: not old & servers())
    assert len(servers()) == 1


@pytest.mark.nightly
def test_idle_servers_end_and_busy_ones_stay(user: User) -> None:
    user.configure(RIGHT)
    user.provider._rules.clear()
    user.provider.on("slow", Reply(delay_s=5 * IDLE_S))
    spec = OpencodeSpec(binary=user.binary, model_ref="fake/echo", clocks=CLOCKS)
    pool = ServerPool(idle_s=IDLE_S)

    async def prompt(text: str) -> str | None:
        async with pool.use(spec, "server", frozenset()) as backend:
            request = Request(prompt=text, model_ref="fake/echo")
            return (await ask(backend, request, node_id="n", on_session=backend.release_session)).text

    try:
        # A batch outlasts the idle time, and its server stays.
        assert pool.call(prompt, "slow") == "slow"
        until(lambda: not servers())
        assert pool.call(prompt, "again") == "again"
    finally:
        pool.close()


@pytest.mark.nightly
def test_a_changed_agent_is_another_row(user: User) -> None:
    user.configure(RIGHT)
    user.define_judge("Answer in French.")
    assert user.annotate("one", agent="judge").counts["completed"] == 1
    again = user.annotate("one", agent="judge")
    assert list(again.frame["reused"]) == [True]
    user.define_judge("Answer in Welsh.")
    changed = user.annotate("one", agent="judge")
    assert list(changed.frame["reused"]) == [False]
    systems = [call.system for call in user.provider.calls]
    assert ["French" in systems[0], "Welsh" in systems[1]] == [True, True]
    assert len(systems) == 2


@pytest.mark.nightly
@pytest.mark.parametrize("backend", ["server", pytest.param("cli", marks=pytest.mark.nightly)])
def test_no_row_is_answered_by_an_agent_that_changed_after_it_was_planned(user: User, backend: str) -> None:
    user.configure(RIGHT)
    user.define_judge("Answer in French.")

    def changes(call: Call) -> bool:
        if "row 1" in call.prompt:
            user.define_judge("Answer in Welsh.")
        return False

    user.provider.on(changes, Reply(text="never"))
    prompts = [f"row {number}" for number in range(3)]
    options: dict[str, Any] = {"agent": "judge", "backend": backend, "concurrency": 1}
    with pytest.raises(SetupError, match=r"agent\.judge\.prompt"):
        user.annotate(*prompts, **options)
    assert {"Welsh" in call.system for call in user.provider.calls} == {False}
    sent = len(user.provider.calls)
    assert sent == 2
    # The rows have other keys now.
    assert list(user.annotate(*prompts, **options).frame["reused"]) == [False] * 3
    user.define_judge("Answer in French.")
    assert sum(user.annotate(*prompts, **options).frame["reused"]) == sent


@pytest.mark.slow
def test_an_agent_that_is_gone_is_not_replaced_by_the_default_one(user: User) -> None:
    user.configure(RIGHT)
    agent = user.define_judge("Answer in French.")

    def removes(call: Call) -> bool:
        agent.unlink(missing_ok=True)
        return False

    user.provider.on(removes, Reply(text="never"))
    with pytest.raises(SetupError, match="'judge' is not known to opencode") as raised:
        user.annotate("one", "two", "three", agent="judge", concurrency=1)
    assert "opencode-tasks resume" in raised.value.hint
    assert {"French" in call.system for call in user.provider.calls} == {True}
