"""``ScriptedProvider``: an HTTP server with scripted answers on the wires of the providers."""

from __future__ import annotations

import copy
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opencode_tasks.testing.models import DEFAULT_MODELS
from opencode_tasks.testing.response import build_response
from opencode_tasks.testing.script import Call, Reply, Wire
from opencode_tasks.testing.wires import WIRES
from opencode_tasks.testing.wires.turn import Shape

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

START_LIMIT_S = 20.0
STOP_LIMIT_S = 5.0
# As long as real providers. With uvicorn's 5 s, a client sometimes reuses a connection that is being closed.
KEEP_ALIVE_S = 75

Match = str | re.Pattern[str] | Callable[[Call], bool]


@dataclass(slots=True)
class _Rule:
    match: Match
    replies: Sequence[Reply]
    used: int = 0

    def matches(self, call: Call) -> bool:
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
    """A model provider on ``127.0.0.1``; a context manager that serves in a thread.

    It speaks the wires of OpenAI, Anthropic, Google, AWS and others, each at its own address. The first rule
    that matches a request decides the reply. A request without a matching rule is answered with its prompt.
    The default models are ``echo``, which has a price, ``free``, which costs nothing, and ``unpriced``,
    which has no price.

    Attributes:
        calls: Model requests in the order of arrival.
        models: Models by name, as in an opencode config.
        port: Port of the server.

    Examples:
        >>> import httpx
        >>> from opencode_tasks.testing import Reply, ScriptedProvider
        >>> body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
        >>> with ScriptedProvider().on("hello", Reply(status=503), Reply(text="hi")) as provider:
        ...     url = f"{provider.base_url}/chat/completions"
        ...     first, second = (httpx.post(url, json=body) for _ in range(2))
        >>> first.status_code
        503
        >>> second.json()["choices"][0]["message"]["content"]
        'hi'
        >>> provider.prompts()
        ['hello', 'hello']
    """

    def __init__(self, *, port: int = 0, models: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Bind the port; the server does not answer before ``start``.

        Args:
            port: Port to listen on; 0 is a free one.
            models: Models by name, as in an opencode config; None is the default models.
        """
        self.calls: list[Call] = []
        self.models: dict[str, Mapping[str, Any]] = dict(models or DEFAULT_MODELS)
        self._rules: list[_Rule] = []
        self._max_requests: int | None = None
        self._refusal = Reply()
        self._active = 0
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        app = Starlette(
            routes=[*self._routes(), Route("/v1/models", self._list_models)],
        )
        config = uvicorn.Config(
            app,
            log_level="critical",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    @property
    def base_url(self) -> str:
        """URL for the ``baseURL`` of an OpenAI-compatible provider in an opencode config."""
        return f"{self._origin}{WIRES['chat'].base}"

    def on(self, match: Match, *replies: Reply) -> Self:
        """Add a rule.

        Args:
            match: A part of the prompt, a pattern that is searched in the prompt, or a function of the
                request. The prompt is the text of the last user message.
            replies: Replies to the matching requests, one after the other. The last one is repeated.
                Without a reply, the prompt is echoed.

        Returns:
            The provider, so that calls can be chained.
        """
        self._rules.append(_Rule(match, replies or (Reply(),)))
        return self

    def limit_concurrency(self, requests: int | None, *, retry_after_s: float | None = None) -> Self:
        """Refuse requests with status 429 while others are being answered.

        The limit can be changed while the provider serves.

        Args:
            requests: Number of requests that are answered at the same time; None removes the limit.
            retry_after_s: Value of the ``Retry-After`` header of a refusal; None sends no header.

        Returns:
            The provider, so that calls can be chained.
        """
        headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:g}"}
        body = {"error": {"message": "too many requests at once", "type": "rate_limit_error"}}
        with self._lock:
            self._max_requests, self._refusal = requests, Reply(status=429, headers=headers, body=body)
        return self

    def opencode_config(
        self, *, name: str = "fake", api_key: str | None = "sk-test", wire: Wire = "chat"
    ) -> dict[str, Any]:
        """Return an opencode config with this server as a provider.

        The configs of several wires can be merged: the server answers on all of them at once.

        Args:
            name: Name of the provider: a model is then ``{name}/echo``.
            api_key: Key that opencode sends; None configures no key.
            wire: Wire of the provider. opencode contains the SDKs of all wires.

        Returns:
            The config as ``opencode.json`` would contain it, a copy of its own.
        """
        spec = WIRES[wire]
        key = {} if api_key is None else {"apiKey": api_key}
        return {
            "provider": {
                name: {
                    "npm": spec.npm,
                    "name": "Scripted provider",
                    "options": {
                        "baseURL": f"{self._origin}{spec.base}",
                        **copy.deepcopy(spec.options),
                        **key,
                    },
                    "models": copy.deepcopy(self.models),
                }
            }
        }

    def prompts(self) -> list[str]:
        """Return the last user message of each request so far, in the order of arrival."""
        return [call.prompt for call in list(self.calls)]

    def start(self) -> Self:
        """Start to serve in a thread and return when requests are answered.

        Returns:
            The provider.

        Raises:
            RuntimeError: The server does not start within 20 seconds.
        """
        self._thread.start()
        deadline = time.monotonic() + START_LIMIT_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the scripted provider did not start")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Stop the server and close the connections of unanswered requests."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(timeout=STOP_LIMIT_S)
        self._socket.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _routes(self) -> Iterator[Route]:
        for wire, spec in WIRES.items():
            for path, shape in spec.routes.items():
                yield Route(f"{spec.base}{path}", self._endpoint(wire, shape), methods=["POST"])

    def _endpoint(self, wire: Wire, shape: Shape) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await self._answer(request, await _read_call(request, wire, shape), shape)

        return answer

    async def _list_models(self, _: Request) -> Response:
        models = [{"id": name, "object": "model"} for name in self.models]
        return JSONResponse({"object": "list", "data": models})

    async def _answer(self, request: Request, call: Call, shape: Shape) -> Response:
        with self._lock:
            self.calls.append(call)
            is_refused = self._max_requests is not None and self._active >= self._max_requests
            reply = self._refusal if is_refused else self._reply_to(call)
            self._active += not is_refused
        if is_refused:
            return await build_response(call, reply, request, shape)
        try:
            response = await build_response(call, reply, request, shape)
        except BaseException:
            self._end_request()
            raise
        return _CountedResponse(response, self._end_request)

    def _reply_to(self, call: Call) -> Reply:
        rule = next((rule for rule in self._rules if rule.matches(call)), None)
        return rule.next_reply() if rule else Reply()

    def _end_request(self) -> None:
        with self._lock:
            self._active -= 1


async def _read_call(request: Request, wire: Wire, shape: Shape) -> Call:
    body: dict[str, Any] = await request.json()
    headers = {key.lower(): value for key, value in request.headers.items()}
    question = shape.read(body)
    return Call(
        at=time.time(),
        path=request.url.path,
        headers=headers,
        body=body,
        prompt=question.prompt,
        model=request.path_params.get("model") or body.get("model", ""),
        wire=wire,
        system=question.system,
        authorization=headers.get("authorization", ""),
    )


class _CountedResponse(Response):
    """A response that calls ``on_end`` when it has been sent or could not be sent."""

    def __init__(self, response: Response, on_end: Callable[[], None]) -> None:
        super().__init__()
        self._response = response
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._on_end()
