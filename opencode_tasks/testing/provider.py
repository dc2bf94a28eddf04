"""An OpenAI-compatible provider that answers by rule and records what it was sent.

The wire format is that of OpenAI's chat completions, as the AI SDK's OpenAI-compatible package
(the one opencode uses for configured providers) reads it.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opencode_tasks.testing.script import Call, Reply, message_text
from opencode_tasks.testing.wire import answer

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

START_LIMIT_S = 20.0


Match = str | re.Pattern[str] | Callable[[Call], bool]


@dataclass(slots=True)
class _Rule:
    match: Match
    replies: Sequence[Reply]
    used: int = 0

    def fits(self, call: Call) -> bool:
        if isinstance(self.match, str):
            return self.match in call.prompt
        if isinstance(self.match, re.Pattern):
            return self.match.search(call.prompt) is not None
        return self.match(call)

    def next_reply(self) -> Reply:
        reply = self.replies[min(self.used, len(self.replies) - 1)]
        self.used += 1
        return reply


class ScriptedProvider:
    """A provider on ``127.0.0.1`` with rules; a context manager.

    The first rule that fits a request decides; without one the prompt is echoed. ``calls`` holds
    every chat request in the order of arrival. ``allow`` bounds how many it answers at once.
    """

    def __init__(self, *, port: int = 0, models: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.calls: list[Call] = []
        self.models = dict(models or DEFAULT_MODELS)
        self._rules: list[_Rule] = []
        self._allowed: int | None = None
        self._refusal = Reply()
        self._active = 0
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._list_models),
            ]
        )
        config = uvicorn.Config(
            app,
            log_level="critical",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            # As real providers: after uvicorn's 5 s a client now and then meets a connection being closed.
            timeout_keep_alive=75,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    @property
    def base_url(self) -> str:
        """The address to configure as the provider's ``baseURL``."""
        return f"http://127.0.0.1:{self.port}/v1"

    def on(self, match: Match, *replies: Reply) -> Self:
        """Answer requests that fit with these replies in turn; the last one stands for the rest.

        A string fits where the last user message contains it, a pattern where it is found there,
        a function where it says so. Returns the provider, so that rules chain.
        """
        self._rules.append(_Rule(match, replies or (Reply(),)))
        return self

    def allow(self, at_once: int | None, *, retry_after: float | None = None) -> Self:
        """Answer so many requests at once and refuse those beyond with a 429; None: any number.

        The refusal names ``retry_after`` seconds, None names none. May be said again while it serves.
        Returns the provider.
        """
        headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        body = {"error": {"message": "too many requests at once", "type": "rate_limit_error"}}
        with self._lock:
            self._allowed, self._refusal = at_once, Reply(status=429, headers=headers, body=body)
        return self

    def opencode_config(self, *, name: str = "fake", api_key: str | None = "sk-test") -> dict[str, Any]:
        """An opencode config that knows this server as provider ``name``; None leaves the key out."""
        key = {} if api_key is None else {"apiKey": api_key}
        return {
            "provider": {
                name: {
                    "npm": "@ai-sdk/openai-compatible",
                    "name": "Scripted provider",
                    "options": {"baseURL": self.base_url, **key},
                    "models": self.models,
                }
            }
        }

    def prompts(self) -> list[str]:
        """The last user message of each request so far, in the order of arrival."""
        return [call.prompt for call in list(self.calls)]

    def start(self) -> Self:
        """Serve in a thread; returns once requests are answered."""
        self._thread.start()
        deadline = time.monotonic() + START_LIMIT_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the scripted provider did not start")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End the server and the requests that still hang in it."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(timeout=5)
        self._socket.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _list_models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": m, "object": "model"} for m in self.models]})

    async def _chat(self, request: Request) -> Response:
        body: dict[str, Any] = await request.json()
        headers = {key.lower(): value for key, value in request.headers.items()}
        call = Call(
            at=time.time(),
            path=request.url.path,
            headers=headers,
            body=body,
            prompt=last_user_text(body),
            model=body.get("model", ""),
            authorization=headers.get("authorization", ""),
        )
        with self._lock:
            self.calls.append(call)
            is_refused = self._allowed is not None and self._active >= self._allowed
            reply = self._refusal if is_refused else self._reply_to(call)
            self._active += not is_refused
        if is_refused:
            return await answer(call, reply, request)
        try:
            response = await answer(call, reply, request)
        except BaseException:
            self._leave()
            raise
        return _Counted(response, self._leave)

    def _reply_to(self, call: Call) -> Reply:
        rule = next((r for r in self._rules if r.fits(call)), None)
        return rule.next_reply() if rule else Reply()

    def _leave(self) -> None:
        with self._lock:
            self._active -= 1


class _Counted(Response):
    """A response that tells when it has been sent, to its end or not."""

    def __init__(self, response: Response, on_sent: Callable[[], None]) -> None:
        super().__init__()
        self._response = response
        self._on_sent = on_sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._on_sent()


def last_user_text(body: Mapping[str, Any]) -> str:
    """The text of the last user message of a chat request; empty where there is none."""
    users = [m for m in body.get("messages", []) if m.get("role") == "user"]
    return message_text(users[-1]) if users else ""


DEFAULT_MODELS: dict[str, dict[str, Any]] = {
    "echo": {
        "name": "Echo",
        "tool_call": True,
        "cost": {"input": 1.0, "output": 2.0, "cache_read": 0.1, "cache_write": 1.25},
        "limit": {"context": 1_000_000, "output": 4096},
    },
    "free": {
        "name": "Free",
        "tool_call": True,
        "cost": {"input": 0, "output": 0},
        "limit": {"context": 128_000, "output": 4096},
    },
    "unpriced": {
        "name": "Unpriced",
        "tool_call": True,
        "limit": {"context": 128_000, "output": 4096},
    },
}
