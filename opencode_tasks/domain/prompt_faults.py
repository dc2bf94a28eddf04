"""Checks of a single prompt and its tools, as ``opencode_task`` and ``OpenCodeLLM`` get them. Pure."""

from __future__ import annotations

from typing import Any, cast


def prompt_faults(prompt: Any, tools: Any) -> list[str]:
    """One line for a prompt that cannot be sent, and for tools that are no remote MCP servers."""
    faults: list[str] = []
    if not isinstance(prompt, str):
        faults.append(f"prompt: {prompt!r:.80} is not text")
    elif not prompt.strip():
        faults.append("prompt: the prompt is empty")
    servers = cast("list[Any]", tools) if isinstance(tools, list | tuple) else [None]
    if not all(hasattr(server, name) for server in servers for name in ("name", "hostname")):
        faults.append(f"tools: {tools!r:.80} is not a list of remote MCP servers (RemoteTool)")
    return faults
