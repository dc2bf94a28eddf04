"""Tools of a real remote MCP server, through the real opencode."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from cluster import Desk
from rig import RARELY_CLI, Rig
from stock_server import stock_server

from opencode_tasks import OpenCodeAgent, OpenCodeLLM
from opencode_tasks.domain.records import RemoteTool
from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.testing import Reply


@pytest.fixture
def stock() -> Iterator[tuple[RemoteTool, list[str]]]:
    """An MCP server named ``stock`` with one tool, and the items it was asked for."""
    with stock_server() as (tool, asked, _):
        yield tool, asked


@pytest.mark.slow
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_named_server_is_the_only_one_whose_tools_are_offered_and_run(
    rig: Rig, stock: tuple[RemoteTool, list[str]], backend: BackendName
) -> None:
    tool, asked = stock
    prompt = f"how many apples, by {backend}?"
    rig.provider.on(
        lambda call: call.prompt == prompt,
        Reply(tool_calls=[("stock_count", {"item": "apples"})]),
        Reply(text="six"),
    )
    llm = OpenCodeLLM(
        "fake/echo",
        opencode_bin=str(rig.spec.binary),
        config=dict(rig.spec.config),
        clocks=rig.spec.clocks,
        backend=backend,
    )
    before = len(rig.provider.calls)
    try:
        result = llm.prompt(prompt, tools=[tool])
    finally:
        server_pool.close()
    first, second = rig.provider.calls[before:]
    assert [offered["function"]["name"] for offered in first.body["tools"]] == ["stock_count"]
    assert asked == ["apples"]
    assert second.body["messages"][-1]["role"] == "tool"
    assert "6 of apples" in str(second.body["messages"][-1]["content"])
    assert result.result == "six"
    assert "[Tool Call: stock_count]" in result.stream_result
    assert llm.last_metadata["turns"] == 2
    assert llm.last_metadata["tools"][0]["name"] == "stock"


@pytest.mark.slow
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_an_end_that_opencode_does_not_know_costs_one_request_with_tools_too(
    rig: Rig, stock: tuple[RemoteTool, list[str]], backend: BackendName
) -> None:
    tool, _ = stock
    prompt = f"how many pears, by {backend}?"
    rig.provider.on(
        lambda call: call.prompt == prompt,
        Reply(tool_calls=[("stock_count", {"item": "pears"})]),
        Reply(text="", finish_reason="eos"),
    )
    llm = OpenCodeLLM(
        "fake/echo",
        retries=1,
        opencode_bin=str(rig.spec.binary),
        config=dict(rig.spec.config),
        clocks=rig.spec.clocks,
        backend=backend,
    )
    before = len(rig.provider.calls)
    try:
        result = llm.prompt(prompt, tools=[tool])
    finally:
        server_pool.close()
    assert len(rig.provider.calls) - before == 2
    assert not result.success
    assert "finish reason 'eos', and sent no text" in result.stderr


@pytest.mark.nightly
@pytest.mark.parametrize("by", [pytest.param("option", marks=pytest.mark.nightly), "block"])
def test_rows_use_the_tools_of_a_server_of_the_config_or_of_an_agents_block(
    desk: Desk, stock: tuple[RemoteTool, list[str]], by: str
) -> None:
    tool, asked = stock
    url = f"http://{tool.hostname}:{tool.port}/{tool.name}/mcp"
    desk.provider.on(
        lambda call: not any(message.get("role") == "tool" for message in call.body["messages"]),
        Reply(tool_calls=[("stock_count", {"item": "pears"})]),
    )
    desk.provider.on("how many", Reply(text="five"))
    desk.write_csv("in.csv", [{"prompt": "how many pears?"}])
    if by == "option":
        told = desk.arguments("in.csv", "-o", "out.csv", "--mcp-server", "stock")
        config = desk.folder / "opencode.json"
        servers = {"stock": {"type": "remote", "url": url, "enabled": True}}
        config.write_text(json.dumps(json.loads(config.read_text()) | {"mcp": servers}))
    else:
        OpenCodeAgent(mcp_servers={"stock": url}).save("stock-keeper", overwrite=True)
        told = desk.arguments("in.csv", "-o", "out.csv", "--agent", "stock-keeper")
    ran = desk.run(*told)
    assert ran.code == 0, ran.stderr
    assert asked == ["pears"]
    assert [row["response"] for row in desk.read_csv("out.csv")] == ["five"]
    offered = [one["function"]["name"] for one in desk.provider.calls[0].body["tools"]]
    assert offered == ["stock_count"]
