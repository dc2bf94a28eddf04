"""Trajectories and conversations of the sessions that the real opencode recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from atif import faults_of

from opencode_tasks.outcomes.atif import TrajectoryFacts, trajectory
from opencode_tasks.outcomes.session_messages import steps_of
from opencode_tasks.outcomes.session_tree import SessionTree, session_trees
from opencode_tasks.outcomes.sharegpt import conversation

FOLDERS = sorted(Path(__file__).parent.parent.joinpath("recordings").glob("opencode-*/**/server"))
FACTS = TrajectoryFacts(agent_version="1.18.33", model_ref="m", system="Be brief.", extra={}, final_extra={})
TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


def recorded(folder: Path) -> SessionTree:
    """The sessions of a recording, as the ledger has them."""
    root: list[Any] = json.loads((folder / "messages.json").read_text())
    children: list[list[Any]] = json.loads((folder / "children.json").read_text())
    every = [messages for messages in (root, *children) if messages]
    sessions = [
        {
            "session_id": messages[0]["info"]["sessionID"],
            "parent_id": None if messages is root else root[0]["info"]["sessionID"],
            "messages": messages,
            "usage_known": True,
        }
        for messages in every
    ]
    usage = [
        {"session_id": step.session_id, "step_id": step.step_id, "cost_pico": step.usage.cost_pico}
        | {name: getattr(step.usage, name) for name in TOKENS}
        for messages in every
        for step in steps_of(messages, messages[0]["info"]["sessionID"])
    ]
    root_id = root[0]["info"]["sessionID"]
    return session_trees(sessions, usage, [root_id])[root_id]


def case(*names: str) -> Path:
    [folder] = [one for one in FOLDERS if one.parts[-1 - len(names) : -1] == names]
    return folder


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: "/".join(folder.parts[-3:-1]))
def test_every_recorded_session_is_a_valid_trajectory_and_a_conversation_in_turns(folder: Path) -> None:
    tree = recorded(folder)
    found = trajectory(tree, FACTS)
    assert found is not None
    assert faults_of(found) == []
    assert conversation_faults(tree.messages) == []


def conversation_faults(messages: Sequence[Any]) -> list[str]:
    """The turns of a conversation at places where LLaMA-Factory does not accept them."""
    found = conversation(messages, system=None, answer=None)
    turns = [] if found is None else found["conversations"]
    accepted = (("human", "observation"), ("gpt", "function_call"))
    return [turn["from"] for at, turn in enumerate(turns) if turn["from"] not in accepted[at % 2]] + (
        [] if len(turns) % 2 == 0 else ["odd"]
    )


def test_a_sub_agent_is_embedded_and_its_cost_is_in_the_total() -> None:
    tree = recorded(case("opencode-1.18.33", "child-session"))
    found = trajectory(tree, FACTS)
    assert found is not None
    [child] = found["subagent_trajectories"]
    [result] = found["steps"][2]["observation"]["results"]
    assert result["subagent_trajectory_ref"] == [{"trajectory_id": child["trajectory_id"]}]
    assert [step["message"] for step in child["steps"]] == ["do the one thing", "Thing done."]
    assert found["final_metrics"]["total_cost_usd"] == pytest.approx(5.8e-05 + 6.4e-05 + 1.7e-05)
    assert found["final_metrics"]["total_prompt_tokens"] == 100
    assert child["final_metrics"]["total_cost_usd"] == pytest.approx(1.7e-05)


def test_tokens_are_those_of_the_provider_and_reasoning_is_apart() -> None:
    found = trajectory(recorded(case("wires", "chat", "cached")), FACTS)
    assert found is not None
    metrics = found["steps"][-1]["metrics"]
    # The provider reports 100 input tokens, 30 of them from a cache, and 20 output tokens.
    assert (metrics["prompt_tokens"], metrics["completion_tokens"]) == (100, 20)
    assert metrics["cached_tokens"] == 30
    thought = trajectory(recorded(case("opencode-1.18.33", "reasoning")), FACTS)
    assert thought is not None
    assert thought["steps"][-1]["reasoning_content"]


def test_an_unknown_count_is_left_out_and_makes_its_total_unknown() -> None:
    tree = recorded(case("opencode-1.18.33", "tool-call"))
    first, *others = tree.usage
    usage = {first: {**tree.usage[first], "output_tokens": None, "cost_pico": None}}
    usage |= {step: tree.usage[step] for step in others}
    found = trajectory(
        SessionTree(session_id="s", messages=tree.messages, usage=usage, children=[], is_usage_known=True),
        FACTS,
    )
    assert found is not None
    assert set(found["steps"][2]["metrics"]) == {"prompt_tokens", "cached_tokens", "extra"}
    assert set(found["final_metrics"]) == {"total_prompt_tokens", "total_cached_tokens", "total_steps"}
    unknown = SessionTree(
        session_id="s", messages=tree.messages, usage=tree.usage, children=[], is_usage_known=False
    )
    total = trajectory(unknown, FACTS)
    assert total is not None
    assert total["final_metrics"] == {"total_steps": 4}


def message(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"info": {"role": role, "id": "m"}, "parts": list(parts)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def tool(call_id: str, **state: Any) -> dict[str, Any]:
    return {"type": "tool", "tool": "look", "callID": call_id, "state": {"status": "completed", **state}}


def test_a_repair_is_a_further_turn_and_a_call_without_a_result_ends_the_conversation() -> None:
    repaired = [
        message("user", text("label")),
        message("assistant", text("<think>hm</think>bad")),
        message("user", text("correct it")),
        message("assistant", text("good")),
    ]
    found = conversation(repaired, system="s", answer=None)
    assert found is not None
    assert [(turn["from"], turn["value"]) for turn in found["conversations"]] == [
        ("system", "s"),
        ("human", "label"),
        ("gpt", "<think>\nhm\n</think>\n\nbad"),
        ("human", "correct it"),
        ("gpt", "good"),
    ]
    cut = [message("user", text("go")), message("assistant", tool("c", status="running", input={}))]
    assert conversation(cut, system=None, answer=None) is None
    assert conversation(cut[:1], system=None, answer=None) is None
    answered = conversation(cut[:1], system=None, answer="by a person")
    assert answered is not None
    assert answered["conversations"][-1] == {"from": "gpt", "value": "by a person"}


def test_equal_ids_of_calls_are_made_different_and_odd_arguments_are_kept() -> None:
    messages = [
        message("user", text("go")),
        message("assistant", tool("call_0", input={"n": 1}, output="one")),
        message("assistant", tool("call_0", input="two", output={"a": 1})),
        message("assistant", text("done")),
    ]
    tree = SessionTree(session_id="s", messages=messages, usage={}, children=[], is_usage_known=True)
    found = trajectory(tree, FACTS)
    assert found is not None
    assert faults_of(found) == []
    calls = [call for step in found["steps"] for call in step.get("tool_calls", [])]
    assert [call["tool_call_id"] for call in calls] == ["call_0", "call_0-2"]
    assert calls[1]["arguments"] == {"input": "two"}
    assert found["steps"][3]["observation"]["results"][0]["content"] == '{"a": 1}'
    talk = conversation(messages, system=None, answer=None)
    assert talk is not None
    [described] = json.loads(talk["tools"])
    assert described["parameters"]["properties"] == {"n": {"type": "integer"}, "input": {"type": "string"}}
    assert described["parameters"]["required"] == []
