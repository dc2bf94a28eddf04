"""``scripted_backend``: a backend in this process that sends its prompts to a scripted provider.

Rows take milliseconds, since no process of opencode starts. What the provider does has the effect that it has
with the real opencode: ``tests/integration/test_backend_contract.py`` tries the same cases on both. Only the
wire ``chat`` is spoken, and each call of a tool has the same result.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import tempfile
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, cast

import httpx

from opencode_tasks.attachments.file_cache import FileCache
from opencode_tasks.domain.attached_file import KINDS, MediaType
from opencode_tasks.domain.json_values import list_in, mapping_in
from opencode_tasks.domain.max_cost import Price, read_price
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.domain.records import TOKEN_COLUMNS, Session, Usage
from opencode_tasks.errors import InputError
from opencode_tasks.opencode.attach import attached
from opencode_tasks.opencode.backend import (
    DEFAULT_AGENT,
    BackendName,
    KeptSession,
    OnSession,
    OpencodeSpec,
    Request,
)
from opencode_tasks.opencode.backend_table import BACKENDS, BackendKind
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.server_backend import check_clocks
from opencode_tasks.outcomes.backend_result import SessionResult, Stopped
from opencode_tasks.outcomes.session_messages import has_known_usage, session_of
from opencode_tasks.testing.chat_client import AnswerFailedError, chunks

NAME = "scripted"
PROVIDER = "fake"
# The clocks of the spec are shorter.
CONNECTION_LIMIT_S = 3600.0
CLOCK_INTERVAL_S = 0.05
TOOL_RESULT = "done"
# The finish reasons of chat completions, as the AI SDK of opencode names them; others stay as they are.
FINISHES: Mapping[str | None, str] = {
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
    None: "unknown",
}

Message = dict[str, Any]


class ServedProvider(Protocol):
    """Knowledge of a backend about a scripted provider, which may be served by another process."""

    @property
    def models(self) -> Mapping[str, Mapping[str, Any]]:
        """Models by name, as in an opencode config."""
        ...

    def opencode_config(self) -> dict[str, Any]:
        """An opencode config with the address and the key of the provider."""
        ...


_numbers = itertools.count(1)


@contextmanager
def scripted_backend(provider: ServedProvider, model: str = "echo") -> Generator[BackendName]:
    """Register a backend that sends prompts to ``provider``, for the block and for this process.

    Args:
        provider: A provider that serves.
        model: Name of the model that answers if the option ``model`` names none.

    Yields:
        The name of the backend, for the option ``backend``.
    """
    # The server pool keeps the backend of a name.
    name = cast("BackendName", f"{NAME}-{next(_numbers)}")
    table = cast("dict[BackendName, BackendKind]", BACKENDS)
    table[name] = BackendKind(
        create=lambda spec, unpriced, _: ScriptedBackend(provider, spec, unpriced),
        catalog=lambda model_ref: scripted_catalog(provider, model_ref or f"{PROVIDER}/{model}"),
    )
    try:
        yield name
    finally:
        del table[name]


def scripted_catalog(provider: ServedProvider, model_ref: str) -> Catalog:
    """The catalog of a model of a scripted provider. Raises InputError if it has no such model."""
    model = model_ref.removeprefix(f"{PROVIDER}/")
    if model not in provider.models:
        raise InputError((f"--model: the scripted provider has no model {model_ref!r}",))
    prices = {
        f"{PROVIDER}/{name}": _price(entry) for name, entry in provider.models.items() if "cost" in entry
    }
    limits = _price(provider.models[model])
    return Catalog(
        version="none",
        model_ref=model_ref,
        agent=DEFAULT_AGENT,
        agent_config={},
        settings={},
        unpriced=_unpriced(provider),
        price=prices.get(model_ref),
        prices=prices,
        max_output_tokens=limits.max_output_tokens,
        max_input_tokens=limits.max_input_tokens,
        plugin_loaded=True,
        inputs=frozenset(
            ("text", *list_in(mapping_in(provider.models[model].get("modalities")).get("input")))
        ),
    )


def _price(entry: Mapping[str, Any]) -> Price:
    """The price of a model; a config names the prices of the cache as opencode's server does not."""
    cost = mapping_in(entry.get("cost"))
    cache = {"read": cost.get("cache_read", 0), "write": cost.get("cache_write", 0)}
    return read_price({**entry, "cost": {**cost, "cache": cache}})


def _unpriced(provider: ServedProvider) -> frozenset[str]:
    return frozenset(f"{PROVIDER}/{name}" for name, entry in provider.models.items() if "cost" not in entry)


class ScriptedBackend:
    """Sessions with a scripted provider; see ``Backend``."""

    def __init__(
        self, provider: ServedProvider, spec: OpencodeSpec, unpriced: frozenset[str] | None = None
    ) -> None:
        self.name: BackendName = cast("BackendName", NAME)
        self.unpriced: frozenset[str] = _unpriced(provider) if unpriced is None else unpriced
        self._provider: Final = provider
        self.spec: OpencodeSpec = spec
        # An idle connection would belong to the loop that opened it, which the backend may outlive.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client: Final = httpx.AsyncClient(timeout=CONNECTION_LIMIT_S, limits=limits, trust_env=False)
        self._sessions: Final[dict[str, list[Message]]] = {}

    async def run(self, request: Request, on_session: OnSession) -> SessionResult:
        """See ``Backend.run``."""
        session_id = request.session_id or f"ses_{NAME}{uuid.uuid4().hex}"
        on_session(session_id)
        messages = self._sessions.setdefault(session_id, [])
        prompt = await self._prompt(request)
        messages.append(_message(session_id, messages, "user", *prompt))
        stopped = await self._converse(session_id, request, messages)
        session = self._session(session_id)
        return SessionResult(
            session_id=session_id,
            sessions=[session],
            stopped=stopped,
            exit_code=0,
            usage_known=(stopped is None or stopped.clock is None) and has_known_usage([session]),
            attached_files=len(request.files),
        )

    async def _prompt(self, request: Request) -> list[Mapping[str, Any]]:
        """The parts of a prompt with its files, as opencode sends them."""
        parts: list[Mapping[str, Any]] = [{"type": "text", "text": request.prompt}]
        if request.session_id is not None or not request.files:
            return parts
        with tempfile.TemporaryDirectory(prefix="oct-") as folder:
            async with attached(FileCache(Path(folder) / "files"), request, self.partial_sessions) as files:
                for file in files:
                    parts += _file_parts(**file)
        return parts

    def data_dir(self, session_id: str | None) -> Path | None:
        """None: there is no data directory."""
        del session_id

    def partial_sessions(self, session_id: str) -> list[Session]:
        """The session so far."""
        return [self._session(session_id)] if session_id in self._sessions else []

    def release_session(self, session_id: str) -> None:
        """Forget a session that is recorded."""
        self._sessions.pop(session_id, None)

    async def keep_session(self, session_id: str, attempt_id: str) -> bool:
        """No session is kept."""
        del session_id, attempt_id
        return False

    async def take_session(self, kept: KeptSession, attempt_id: str) -> bool:
        """No session is kept."""
        del kept, attempt_id
        return False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _session(self, session_id: str) -> Session:
        return session_of(session_id, self._sessions[session_id], unpriced=self.unpriced)

    async def _converse(self, session_id: str, request: Request, messages: list[Message]) -> Stopped | None:
        """Send requests until an answer calls no tool; the reason if the backend ended the session."""
        while True:
            spent_pico = sum(step.usage.cost_pico or 0 for step in self._session(session_id).steps)
            if request.max_cost_pico is not None and spent_pico > request.max_cost_pico:
                return Stopped(cap_pico=request.max_cost_pico, spent_pico=spent_pico)
            answer = _Answer(model=(request.model_ref or f"{PROVIDER}/echo").partition("/")[2])
            body = self._body(request, answer.model, messages)
            # The answer is in the session while it arrives, so that an interruption finds it.
            message = _message(session_id, messages, "assistant")
            message["info"] |= {"providerID": PROVIDER, "modelID": answer.model, "agent": request.agent}
            messages.append(message)
            try:
                stopped = await self._receive(answer, body, message)
            except AnswerFailedError as failed:
                message["info"]["error"] = failed.error
                return None
            if stopped is not None:
                return stopped
            usage, cost_usd = answer.tokens(), self._cost_usd(answer)
            end = {"type": "step-finish", "reason": answer.finish, "tokens": usage, "cost": cost_usd}
            message["parts"] = _numbered(message, [*answer.parts(), end])
            message["info"] |= {"finish": answer.finish, "tokens": usage, "cost": cost_usd}
            message["info"]["time"]["completed"] = int(time.time() * 1000)
            if not answer.calls:
                return None

    async def _receive(self, answer: _Answer, body: Mapping[str, Any], message: Message) -> Stopped | None:
        """Receive an answer; the clock that has run out before its end."""
        clocks = self.spec.clocks
        started = time.monotonic()
        receiving = asyncio.create_task(self._read(answer, body, message))
        try:
            while not receiving.done():
                await asyncio.wait({receiving}, timeout=CLOCK_INTERVAL_S)
                stopped = check_clocks(
                    clocks,
                    now=time.monotonic(),
                    started=started,
                    first_sign=answer.first_sign,
                    last_sign=answer.last_sign or started,
                )
                if stopped is not None and not receiving.done():
                    return stopped
            return receiving.result()
        finally:
            receiving.cancel()
            await asyncio.wait({receiving})

    async def _read(self, answer: _Answer, body: Mapping[str, Any], message: Message) -> None:
        options: Mapping[str, Any] = self._provider.opencode_config()["provider"][PROVIDER]["options"]
        headers = {
            "authorization": f"Bearer {options['apiKey']}",
            "x-session-affinity": message["info"]["sessionID"],
        }
        url = f"{options['baseURL']}/chat/completions"
        async with aclosing(chunks(self._client, url, body, headers)) as arriving:
            async for chunk in arriving:
                answer.add(chunk, time.monotonic())
                message["parts"] = _numbered(message, answer.parts())

    def _body(self, request: Request, model: str, messages: Sequence[Message]) -> dict[str, Any]:
        system = {"role": "system", "content": request.system or self.spec.system}
        sent = [part for message in messages for part in _as_sent(message)]
        return {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [system, *sent],
        }

    def _cost_usd(self, answer: _Answer) -> float | None:
        """The cost, which opencode reports as 0 for a model without a price."""
        entry = self._provider.models[answer.model]
        tokens = answer.tokens()
        cache = tokens["cache"]
        counts = (tokens["input"], cache["read"], cache["write"], tokens["output"], tokens["reasoning"])
        usage = Usage(**dict(zip(TOKEN_COLUMNS, counts, strict=True)))
        return pico_to_usd(_price(entry).cost(usage))


@dataclass(slots=True, kw_only=True)
class _Answer:
    """An answer of a model, as far as it has arrived. Times are of the monotonic clock."""

    model: str
    text: str = ""
    reasoning: str = ""
    calls: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    finish: str = "unknown"
    usage: Mapping[str, Any] = field(default_factory=dict[str, Any])
    first_sign: float | None = None
    last_sign: float | None = None

    def add(self, chunk: Mapping[str, Any] | None, at: float) -> None:
        """Add a chunk; a comment, which is None, is a sign alone."""
        self.last_sign = at
        choices = list_in(mapping_in(chunk).get("choices"))
        choice = mapping_in(choices[0]) if choices else mapping_in(None)
        delta = mapping_in(choice.get("delta"))
        has_content = any(delta.get(key) for key in ("content", "reasoning_content", "tool_calls"))
        if chunk is None or has_content:
            self.first_sign = self.first_sign or at
        self.text += delta.get("content") or ""
        self.reasoning += delta.get("reasoning_content") or ""
        self.calls += list_in(delta.get("tool_calls"))
        if (finish := choice.get("finish_reason")) is not None:
            self.finish = FINISHES.get(finish, finish)
        self.usage = mapping_in(mapping_in(chunk).get("usage")) or self.usage

    def tokens(self) -> dict[str, Any]:
        """The tokens as opencode has them: no kind contains another one."""
        details = mapping_in(self.usage.get("prompt_tokens_details"))
        read, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
        of_output = mapping_in(self.usage.get("completion_tokens_details"))
        reasoning = of_output.get("reasoning_tokens") or 0
        return {
            "input": (self.usage.get("prompt_tokens") or 0) - read - written,
            "output": (self.usage.get("completion_tokens") or 0) - reasoning,
            "reasoning": reasoning,
            "cache": {"read": read, "write": written},
        }

    def parts(self) -> list[dict[str, Any]]:
        """The parts of the message."""
        found: list[dict[str, Any]] = []
        if self.reasoning:
            found.append({"type": "reasoning", "text": self.reasoning})
        if self.text:
            found.append({"type": "text", "text": self.text})
        for call in self.calls:
            function = mapping_in(call.get("function"))
            state = {"status": "completed", "input": function.get("arguments"), "output": TOOL_RESULT}
            found.append(
                {"type": "tool", "tool": function.get("name"), "callID": call.get("id"), "state": state}
            )
        return found


def _message(session_id: str, before: Sequence[Message], role: str, *parts: Mapping[str, Any]) -> Message:
    info = {
        "role": role,
        "id": f"msg_{len(before):06}",
        "sessionID": session_id,
        "time": {"created": int(time.time() * 1000)},
    }
    message: Message = {"info": info, "parts": []}
    message["parts"] = _numbered(message, parts)
    return message


def _file_parts(path: str, media_type: MediaType, name: str) -> list[Mapping[str, Any]]:
    content, kind = Path(path).read_bytes(), KINDS[media_type]
    if kind == "text":
        call = f"Called the Read tool with the following input: {json.dumps({'filePath': name})}"
        return [{"type": "text", "text": text} for text in (call, content.decode())]
    url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    if kind == "image":
        return [{"type": "image_url", "image_url": {"url": url}}]
    return [{"type": "file", "file": {"filename": name, "file_data": url}}]


def _numbered(message: Message, parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**part, "id": f"prt_{message['info']['id']}_{place:03}"} for place, part in enumerate(parts)]


def _as_sent(message: Message) -> list[dict[str, Any]]:
    """The messages of a request for one message of the session."""
    parts: list[Mapping[str, Any]] = message["parts"]
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    if message["info"]["role"] == "user" and len(parts) > 1:
        content = [{key: value for key, value in part.items() if key != "id"} for part in parts]
        return [{"role": message["info"]["role"], "content": content}]
    tools = [part for part in parts if part["type"] == "tool"]
    if not tools:
        return [{"role": message["info"]["role"], "content": text}]
    calls = [
        {
            "id": tool["callID"],
            "type": "function",
            "function": {"name": tool["tool"], "arguments": tool["state"]["input"]},
        }
        for tool in tools
    ]
    results = [{"role": "tool", "tool_call_id": tool["callID"], "content": TOOL_RESULT} for tool in tools]
    return [{"role": "assistant", "content": text, "tool_calls": calls}, *results]
