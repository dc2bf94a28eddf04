"""Capabilities that a server of an untested version of opencode must have before it gets a row.

No provider is called: a message that asks for no answer makes opencode report a session and a message as it
does for each row.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.binary import PINNED_VERSION, UNTESTED_FROM
from opencode_tasks.opencode.client import NoAnswerError, Response
from opencode_tasks.outcomes.event_stream import EventFold

TEXT = "self-test"
LIMIT_S = 30.0
EVENT_LIMIT_S = 5.0
INTERVAL_S = 0.05

_log = logging.getLogger(__name__)


class CheckedServer(Protocol):
    """The part of a server that is checked."""

    @property
    def plugin_loaded(self) -> bool:
        """Whether the plugin is loaded."""
        ...

    @property
    def fold(self) -> EventFold:
        """Sessions as the event stream reports them."""
        ...

    async def get(self, path: str, *, timeout_s: float = LIMIT_S) -> Any:
        """GET a route; the JSON of the response."""
        ...

    async def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = LIMIT_S
    ) -> Response:
        """POST to a route."""
        ...


async def check_capabilities(server: CheckedServer, version: str, *, needs_plugin: bool) -> None:
    """Warn that a version is untested; raise SetupError with the first capability that it lacks."""
    checks: list[tuple[str, Callable[[CheckedServer], Awaitable[bool]]]] = [
        ("its list of agents is as expected", _has_agents),
        ("its list of providers is as expected", _has_providers),
        ("it reports a session and its messages in events and on request", _reports_messages),
    ]
    if needs_plugin:
        checks.insert(0, ("it loads our plugin", _loads_plugin))
    for capability, has in checks:
        try:
            is_good = await has(server)
            detail = ""
        except (NoAnswerError, SetupError, ValueError) as error:
            is_good = False
            detail = f" ({getattr(error, 'raw_message', None) or error})"
        if not is_good:
            raise SetupError(
                "unknown",
                raw_message=f"opencode {version} cannot be used: the check that {capability} failed{detail}",
                hint=f"Run `opencode-tasks setup` to install {PINNED_VERSION}.",
            )
    _log.warning(
        "opencode %s has not been tested with this package (versions below %s have); it passed %d checks",
        version,
        UNTESTED_FROM,
        len(checks),
    )


async def _loads_plugin(server: CheckedServer) -> bool:
    return server.plugin_loaded


async def _has_agents(server: CheckedServer) -> bool:
    agents = list_in(await server.get("/agent"))
    return bool(agents) and all("name" in mapping_in(agent) for agent in agents)


async def _has_providers(server: CheckedServer) -> bool:
    return isinstance(mapping_in(await server.get("/config/providers")).get("providers"), list)


async def _reports_messages(server: CheckedServer) -> bool:
    session_id = text_in(mapping_in((await server.post("/session", {"title": TEXT})).json()).get("id"))
    if session_id is None:
        return False
    body = {"noReply": True, "parts": [{"type": "text", "text": TEXT}]}
    state = server.fold.watch(session_id, time.monotonic())
    try:
        await server.post(f"/session/{session_id}/message", body)
        deadline = time.monotonic() + EVENT_LIMIT_S
        while not _has_text(state.messages):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(INTERVAL_S)
        return _has_text(list_in(await server.get(f"/session/{session_id}/message")))
    finally:
        server.fold.forget(session_id)


def _has_text(messages: Sequence[Any]) -> bool:
    parts = [part for message in messages for part in list_in(mapping_in(message).get("parts"))]
    return any(mapping_in(part).get("text") == TEXT for part in parts)
