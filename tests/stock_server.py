"""A real remote MCP server, for tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import uvicorn
from mcp.server import MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

from opencode_tasks.domain.records import RemoteTool

START_LIMIT_S = 20.0


@contextmanager
def stock_server() -> Generator[tuple[RemoteTool, list[str], list[Mapping[str, str]]]]:
    """An MCP server named ``stock``, the items it was asked for, and the headers of its requests."""
    asked: list[str] = []
    headers: list[Mapping[str, str]] = []
    server = MCPServer("stock")

    @server.tool()
    def count(item: str) -> str:
        """How many of an item are there."""
        asked.append(item)
        return f"{len(item)} of {item}"

    app = noting(server.streamable_http_app(streamable_http_path="/stock/mcp"), headers)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + START_LIMIT_S
        while not running.started and time.monotonic() < deadline:
            time.sleep(0.01)
        port = listener.getsockname()[1]
        yield RemoteTool(name="stock", hostname="127.0.0.1", port=port), asked, headers
        running.should_exit = running.force_exit = True
        thread.join(timeout=10)


def noting(app: ASGIApp, headers: list[Mapping[str, str]]) -> ASGIApp:
    """The application, with the headers of its requests noted."""

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await app(scope, receive, send)

    return noted
