"""The opencode config of a run: ours under the user's, the safety keys over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opencode_tasks.domain.records import RemoteTool
from opencode_tasks.opencode.backend import DEFAULT_AGENT, Clocks, OpencodeSpec, Secrets
from opencode_tasks.opencode.config import (
    PLUGIN,
    absolute_files,
    default_config,
    fixed_config,
    literal_json,
    merge,
    merged_config,
)


def spec(**changes: Any) -> OpencodeSpec:
    return OpencodeSpec(binary=Path("/bin/opencode"), **changes)


@pytest.mark.parametrize(
    ("under", "over", "merged"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"d": 2}}}, {"a": {"b": {"c": 1, "d": 2}}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": False}, {"a": False}),
        ({"a": False}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
    ],
)
def test_merging(under: dict[str, Any], over: dict[str, Any], merged: dict[str, Any]) -> None:
    assert merge(under, over) == merged


def test_merging_shares_nothing_with_its_arguments() -> None:
    under: dict[str, Any] = {"a": {"b": [1]}}
    over: dict[str, Any] = {"c": {"d": [2]}}
    merged = merge(under, over)
    merged["a"]["b"].append(3)
    merged["c"]["d"].append(4)
    assert (under, over) == ({"a": {"b": [1]}}, {"c": {"d": [2]}})


def test_the_default_is_lean_and_known_providers_get_our_clocks() -> None:
    clocks = Clocks(first_event_s=10, stall_s=20, total_s=30)
    config = default_config(spec(clocks=clocks, model_ref="a/m", config={"provider": {"b": {}}}))
    assert (config["snapshot"], config["lsp"], config["formatter"]) == (False, False, False)
    assert config["compaction"] == {"auto": False, "prune": False}
    # Opencode's limits are longer than ours, because it would retry.
    timeouts = {"timeout": 60_000, "headerTimeout": 40_000, "chunkTimeout": 50_000}
    assert config["provider"] == {name: {"options": timeouts} for name in ("a", "b")}


@pytest.mark.parametrize(
    "changes",
    [
        {"model_ref": "p/m"},
        {"config": {"provider": {"p": {}}}},
        {"config": {"model": "p/m"}},
        {"secrets": Secrets(api_keys={"p": "sk-1"})},
    ],
)
def test_a_late_first_token_exceeds_no_limit_of_opencode(changes: dict[str, Any]) -> None:
    config = default_config(spec(clocks=Clocks(stall_s=5, total_s=900), **changes))
    # Opencode's limit between chunks also counts from the headers to the first token.
    timeouts = {"timeout": 930_000, "headerTimeout": 930_000, "chunkTimeout": 930_000}
    assert config["provider"] == {"p": {"options": timeouts}}


def test_a_named_agent_keeps_its_compaction() -> None:
    assert "compaction" not in default_config(spec(agent="mine"))


def test_the_users_config_wins_over_our_defaults() -> None:
    own = {
        "snapshot": True,
        "provider": {"p": {"options": {"apiKey": "k", "timeout": 5}, "models": {"m": {}}}},
        "share": "auto",
    }
    config = merged_config(spec(config=own, model_ref="p/m"))
    assert config["snapshot"] is True
    assert config["provider"]["p"]["options"]["timeout"] == 5
    assert config["provider"]["p"]["options"]["apiKey"] == "k"
    assert config["provider"]["p"]["options"]["chunkTimeout"] == 630_000
    assert config["provider"]["p"]["models"] == {"m": {}}


def test_the_safety_keys_win_over_the_users_config() -> None:
    own = {
        "share": "auto",
        "autoupdate": True,
        "agent": {DEFAULT_AGENT: {"tools": {"*": True}, "prompt": "mine"}, "other": {"prompt": "o"}},
    }
    with_own = spec(config=own, system="be brief")
    # Opencode puts its inline config (the fixed one) over its file in the same way.
    config = merge(merged_config(with_own), fixed_config(with_own))
    assert (config["share"], config["autoupdate"]) == ("disabled", False)
    assert config["agent"][DEFAULT_AGENT]["tools"] == {"*": False}
    assert config["agent"][DEFAULT_AGENT]["prompt"] == "be brief"
    assert config["agent"]["other"] == {"prompt": "o"}


def test_only_the_tools_that_are_named_are_allowed() -> None:
    tools = (RemoteTool(name="my tool", hostname="h"), RemoteTool(name="b", hostname="i", port=9))
    config = fixed_config(spec(tools=tools))
    assert config["agent"][DEFAULT_AGENT]["tools"] == {"*": False, "my_tool_*": True, "b_*": True}
    assert config["mcp"] == {
        "my tool": {"type": "remote", "url": "http://h:8000/my tool/mcp", "enabled": True},
        "b": {"type": "remote", "url": "http://i:9/b/mcp", "enabled": True},
    }
    assert "mcp" not in fixed_config(spec())


def test_the_plugin_is_there_unless_left_out() -> None:
    assert fixed_config(spec())["plugin"] == [f"file://{PLUGIN}"]
    assert PLUGIN.is_file()
    assert "plugin" not in fixed_config(spec(use_plugin=False))


@pytest.mark.parametrize(
    ("value", "absolute"),
    [
        ("{file:key.txt}", "{file:/conf/key.txt}"),
        ("{file:./a/../key.txt}", "{file:/conf/key.txt}"),
        ("Bearer {file:a} {file:b}", "Bearer {file:/conf/a} {file:/conf/b}"),
        ("{file:/etc/key}", "{file:/etc/key}"),
        ("{file:~/key}", "{file:~/key}"),
        ("{env:KEY}", "{env:KEY}"),
        ("plain", "plain"),
        ({"a": ["{file:k}", 5, None, True]}, {"a": ["{file:/conf/k}", 5, None, True]}),
    ],
)
def test_file_references_survive_a_move(value: Any, absolute: Any) -> None:
    assert absolute_files(value, Path("/conf")) == absolute


@pytest.mark.parametrize(
    ("total", "parts", "clocks"),
    [
        (900, {}, Clocks(first_event_s=900, stall_s=900, tool_s=900, total_s=900)),
        (900, {"first_event_s": 320}, Clocks(first_event_s=320, stall_s=900, tool_s=900, total_s=900)),
        (900, {"stall_s": 120}, Clocks(first_event_s=900, stall_s=120, tool_s=900, total_s=900)),
        (1, {"first_event_s": 300, "stall_s": 120}, Clocks(first_event_s=1, stall_s=1, tool_s=1, total_s=1)),
    ],
)
def test_a_clock_is_as_long_as_the_whole_by_default_and_never_longer(
    total: float, parts: dict[str, float], clocks: Clocks
) -> None:
    assert Clocks.within(total, **parts) == clocks


def test_nothing_in_our_own_part_of_the_config_is_replaced() -> None:
    system = 'Say {file:missing}, {env:HOME}, {"file": 1} and \\{file:x}.'
    text = literal_json(fixed_config(spec(system=system)))
    assert "{file:" not in text
    assert "{env:" not in text
    assert json.loads(text)["agent"]["opencode-tasks"]["prompt"] == system
