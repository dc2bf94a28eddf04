"""The tools of an agent, as the options name them: with the real opencode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_runs import Engine
from rig import BASH, Rig

from opencode_tasks.errors import InputError
from opencode_tasks.testing import Reply

ORDERED = {
    "mode": "primary",
    "prompt": "You work.",
    "permission": {"edit": "deny", "bash": "allow", "*": "allow"},
}


def engine(folder: Path, rig: Rig, **config: Any) -> Engine:
    """Runs of one row through the real opencode to the provider of the rig."""
    way = {
        "opencode_bin": str(rig.spec.binary),
        "opencode_config": {**rig.spec.config, **config},
        "model": "fake/echo",
    }
    return Engine(folder, rig.provider, way, rows=1)


def offered(rig: Rig, since: int) -> list[list[str]]:
    """The names of the tools that each call to the provider had."""
    calls = rig.provider.calls[since:]
    return [sorted(tool["function"]["name"] for tool in call.body.get("tools") or []) for call in calls]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"allow_tool": ["bash"]}, ["bash"]),
        pytest.param({"allow_tool": ["write", "read"]}, ["edit", "read", "write"], marks=pytest.mark.nightly),
        ({"agent": "worker", "deny_tool": ["bash"]}, []),
    ],
)
def test_an_agent_has_the_tools_that_the_options_name(
    tmp_path: Path, rig: Rig, options: dict[str, Any], names: Sequence[str]
) -> None:
    before = len(rig.provider.calls)
    desk = engine(tmp_path, rig)
    result = desk.execute(desk.plan(**options))
    assert result.counts["completed"] == 1
    assert offered(rig, before) == [names]


@pytest.mark.slow
def test_an_allowed_tool_runs_and_the_key_of_a_row_has_its_name(tmp_path: Path, rig: Rig) -> None:
    rig.provider.on("row 0", Reply(tool_calls=[BASH]), Reply(text="ran"), Reply(text="not asked"))
    desk = engine(tmp_path, rig)
    plan = desk.plan(allow_tool=["bash", "read"])
    result = desk.execute(plan)
    assert result.frame["response"].tolist() == ["ran"]
    [call] = rig.provider.calls[-1:]
    assert "stepped" in str([one for one in call.body["messages"] if one["role"] == "tool"])
    keys = {
        name: [row.row_key for row in planned.rows]
        for name, planned in {
            "same": desk.plan(allow_tool=["read", "bash", "bash"]),
            "fewer": desk.plan(allow_tool=["bash"]),
        }.items()
    }
    assert keys["same"] == [row.row_key for row in plan.rows] != keys["fewer"]


@pytest.mark.slow
def test_a_tool_that_cannot_be_allowed_or_denied_stops_the_run_before_the_first_row(
    tmp_path: Path, rig: Rig
) -> None:
    before = len(rig.provider.calls)
    stock = {"type": "remote", "url": "http://127.0.0.1:9/mcp", "enabled": True}
    desk = engine(tmp_path, rig, mcp={"stock": stock})
    with pytest.raises(InputError) as caught:
        desk.plan(allow_tool=["bsh", "*", "stock_get"], deny_tool=["stok_get"])
    every, one, server = caught.value.faults
    assert every.startswith("--allow-tool: opencode has no tool '*'; there is: apply_patch, bash, edit")
    assert one == "--allow-tool: opencode has no tool 'bsh'; there is: bash"
    assert server == "--deny-tool: opencode has no tool 'stok_get'; there is: stock_*"
    assert len(rig.provider.calls) == before


@pytest.mark.slow
def test_a_denied_tool_that_a_later_rule_of_the_agent_allows_is_a_fault(tmp_path: Path, rig: Rig) -> None:
    desk = engine(tmp_path, rig, agent={**rig.spec.config["agent"], "ordered": ORDERED})
    with pytest.raises(InputError) as caught:
        desk.plan(agent="ordered", deny_tool=["bash", "edit"])
    [fault] = caught.value.faults
    assert fault.startswith(
        "--deny-tool: a later rule of the agent 'ordered' allows bash, edit; put its rule"
    )
