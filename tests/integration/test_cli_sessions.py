"""How a row of the backend ``cli`` is read: from the events in its journal, or by an export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import BASH, Asked, Rig

from opencode_tasks.errors import AuthenticationError, OpenCodeTimeoutError
from opencode_tasks.opencode.backend import Clocks
from opencode_tasks.testing import Reply

pytestmark = pytest.mark.slow

SCHEMA = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}
# The next line of the plugin has a number that does not follow.
LOSE_A_LINE = """echo '{"n": 1, "kind": "other"}' >> "$OPENCODE_TASKS_JOURNAL" """


class Starts:
    """An opencode that notes its starts."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._log = folder / "starts.txt"
        self.path = folder / "opencode"
        self.write()

    def write(self, before: str = "") -> None:
        """Let each start run ``before`` in a shell first."""
        script = f'#!/bin/sh\necho "$1" >> "{self._log}"\n{before}\nexec "{self._binary}" "$@"\n'
        self.path.write_text(script)
        self.path.chmod(0o700)

    def commands(self) -> list[str]:
        """The commands of the starts since the last call."""
        commands = self._log.read_text().split() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return commands


@pytest.fixture
def starts(opencode_binary: Path, tmp_path: Path) -> Starts:
    return Starts(opencode_binary, tmp_path)


@pytest.fixture
def rig(starts: Starts) -> Iterator[Rig]:
    with Rig(starts.path) as opened:
        yield opened


def input_tokens(asked: Asked) -> list[list[int | None]]:
    """Of each step of each session, root first."""
    return [[step.usage.input_tokens for step in session.steps] for session in asked.attempt.sessions]


def test_a_prompt_that_ends_takes_one_start(rig: Rig, starts: Starts) -> None:
    asked = rig.ask(
        Reply(tool_calls=[BASH], input_tokens=100),
        Reply(text="Done.", input_tokens=11),
        backend="cli",
        agent="worker",
    )
    assert (asked.text, input_tokens(asked)) == ("Done.", [[100, 11]])
    refused = rig.ask(Reply(status=401, body={"error": {"message": "bad key"}}), backend="cli")
    assert "bad key" in refused.failed(AuthenticationError).raw_message
    assert starts.commands() == ["run", "run"]


def test_each_further_prompt_adds_its_steps_and_its_sub_agents(rig: Rig, starts: Starts) -> None:
    rig.provider.on("do the one thing", Reply(text="Thing done.", input_tokens=7))
    task = {"description": "one thing", "prompt": "do the one thing", "subagent_type": "hand"}
    asked = rig.ask(
        Reply(tool_calls=[("task", task)], input_tokens=100),
        Reply(text="not yet", input_tokens=200),
        Reply(tool_calls=[("task", task)], input_tokens=300),
        Reply(text='{"label": "a"}', input_tokens=400),
        backend="cli",
        agent="boss",
        schema=SCHEMA,
    )
    assert asked.good.structured == {"label": "a"}
    assert input_tokens(asked) == [[100, 200, 300, 400], [7], [7]]
    root, *children = asked.attempt.sessions
    assert {child.parent_id for child in children} == {root.session_id}
    assert starts.commands() == ["run", "run"]


@pytest.mark.nightly
def test_a_session_without_its_last_events_is_exported(rig: Rig, starts: Starts) -> None:
    clocks = Clocks(first_event_s=60, stall_s=6, total_s=90)
    asked = rig.ask(
        Reply(tool_calls=[BASH], input_tokens=100),
        Reply(hang=True),
        backend="cli",
        agent="worker",
        clocks=clocks,
    )
    asked.failed(OpenCodeTimeoutError)
    assert input_tokens(asked)[0][0] == 100
    assert starts.commands() == ["run", "export"]


@pytest.mark.nightly
def test_a_journal_that_lacks_a_line_is_not_read_for_usage(rig: Rig, starts: Starts) -> None:
    starts.write(LOSE_A_LINE)
    first, second = Reply(text="not yet", input_tokens=200), Reply(text='{"label": "a"}', input_tokens=400)
    asked = rig.ask(first, second, backend="cli", schema=SCHEMA)
    # The second prompt continues a session whose first events are not known.
    assert starts.commands() == ["run", "export", "run", "export"]
    assert input_tokens(asked) == [[200, 400]]


@pytest.mark.nightly
def test_a_further_prompt_of_which_opencode_prints_nothing_has_its_answer(rig: Rig, starts: Starts) -> None:
    starts.write('case "$*" in *--session*) exec > /dev/null ;; esac')
    first, second = Reply(text="not yet", input_tokens=200), Reply(text='{"label": "a"}', input_tokens=400)
    asked = rig.ask(first, second, backend="cli", schema=SCHEMA)
    assert (asked.good.structured, input_tokens(asked)) == ({"label": "a"}, [[200, 400]])
    refused = Reply(status=401, body={"error": {"message": "bad key"}})
    error = rig.ask(first, refused, backend="cli", schema=SCHEMA).failed(AuthenticationError)
    assert "bad key" in error.raw_message
    assert starts.commands() == ["run"] * 4


@pytest.mark.nightly
def test_without_the_plugin_the_session_is_exported(starts: Starts) -> None:
    with Rig(starts.path, use_plugin=False) as rig:
        asked = rig.ask(Reply(text="Done.", input_tokens=11), backend="cli")
    assert (asked.text, input_tokens(asked)) == ("Done.", [[11]])
    assert starts.commands() == ["run", "export"]
