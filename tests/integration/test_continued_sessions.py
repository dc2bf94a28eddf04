"""An agent that is interrupted continues its session and its workspace: no step is paid for twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from agent_rows import FILES, Work, shell
from engine_runs import setting
from repositories import repository

from opencode_tasks.domain.hold import Hold
from opencode_tasks.engine.audit import Audit, audit
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.instance_dir import instance_dirs_root
from opencode_tasks.testing import Call, Reply, ScriptedProvider

STEPS = 5
# What an undisturbed run sends: each step, and the request of the answer.
CALLS = STEPS + 1


def limited(status: int = 429, after_s: float = 1.0) -> Reply:
    """A refusal that ends soon."""
    return Reply(
        status=status, headers={"Retry-After": f"{after_s:g}"}, body={"error": {"message": "slow down"}}
    )


def steps(count: int = STEPS, *, first: int = 1) -> list[Reply]:
    """Calls of the tool ``bash``, each of which adds its number to a file."""
    return [shell(f"echo {number} >> a.txt") for number in range(first, first + count)]


class Agent(Work):
    """A row whose agent works in five steps, and is interrupted."""

    def works(self, *replies: Reply, **options: Any) -> dict[str, Any]:
        """The row of a run whose agent gets these replies, then an answer."""
        self.does(0, *replies)
        self.rows(repo=[str(repository(self.folder / "source", FILES))])
        # The plugin leaves no wait to opencode, as it does with a long one.
        with setting("MAX_INLINE_WAIT", "0.1"):
            plan = self.plan(workspace="repo", **options)
            return self.execute(plan, on_hold=wait).frame.to_dict("records")[0]

    def audited(self) -> Audit:
        """The audit of the newest run."""
        with Ledger.open(self.ledger_url) as ledger:
            found = audit(ledger, self.run()["run_id"])
        assert found is not None
        return found


def wait(run_id: str, hold: Hold) -> None:
    """Wait as a command does."""
    del run_id
    time.sleep(max(0.0, hold.remaining_s(datetime.now(UTC)) or 0.0))


@pytest.fixture
def agent(tmp_path: Path, provider: ScriptedProvider, opencode_binary: Path) -> Iterator[Agent]:
    """A row in a workspace; nothing of it is left on the disk at the end."""
    yield Agent(tmp_path, provider, opencode_binary)
    assert not [*instance_dirs_root().glob("*/*/unrecorded/*")]


def answered(provider: ScriptedProvider) -> list[Call]:
    """The requests that were answered, which a provider charges for."""
    return [call for call in provider.calls if call.status == 200]


def cost_pico(calls: list[Call]) -> int:
    """What the provider charges: the prices of ``echo`` are 1 and 2 dollars per million tokens."""
    return sum(call.input_tokens * 10**6 + call.output_tokens * 2 * 10**6 for call in calls)


def messages(call: Call) -> list[dict[str, Any]]:
    """The conversation of a request."""
    return [{k: m.get(k) for k in ("role", "content", "tool_calls")} for m in call.body["messages"]]


def check_as_undisturbed(agent: Agent, row: dict[str, Any]) -> None:
    """The row, its changes and its cost are those of a run without an interruption."""
    assert (row["status"], row["response"]) == ("completed", "done"), row
    assert row["diff"].endswith("".join(f"+{number}\n" for number in range(1, STEPS + 1)))
    assert row["lines_added"] == STEPS
    calls = answered(agent.provider)
    assert len(calls) == CALLS
    assert row["cost_usd"] * 1e12 == pytest.approx(cost_pico(calls))
    assert row["input_tokens"] == sum(call.input_tokens for call in calls)
    found = agent.audited()
    assert (found.faults, found.requests, found.cost_pico) == ([], CALLS, cost_pico(calls))


@pytest.mark.slow
@pytest.mark.parametrize("sandbox", [None, pytest.param("none", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("status", [429, pytest.param(503, marks=pytest.mark.nightly)])
def test_an_agent_that_meets_a_limit_continues_its_session(agent: Agent, status: int, sandbox: str) -> None:
    row = agent.works(*steps(), limited(status), sandbox=sandbox)
    check_as_undisturbed(agent, row)
    first, second = agent.attempts()
    assert (first["continues"], first["begins_anew"]) == (None, None)
    assert (second["continues"], second["begins_anew"], second["session_id"]) == (
        1,
        None,
        first["session_id"],
    )
    refused, repeated = agent.provider.calls[STEPS : STEPS + 2]
    assert refused.status == status
    # The model sees the request that was refused, and nothing else.
    assert messages(repeated) == messages(refused)
    assert agent.audited().repeated == []
