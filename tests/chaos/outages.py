"""Runs on all wires side by side while their provider is down or refuses the key."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from wire_cases import OVERLOADED, WIRES

from opencode_tasks import AnnotationResult, RunPausedError, annotate
from opencode_tasks.testing import Call, Reply, ScriptedProvider, Wire

ROWS = 30


def _refused(status: int, body: Mapping[str, Any], **headers: str) -> Reply:
    return Reply(status=status, headers=headers, body=body)


# The answer of each provider to a key that it does not accept; see docs/reference/provider-answers.md.
DEAD_KEYS: Mapping[Wire, Reply] = {
    "chat": _refused(
        401,
        {
            "error": {
                "message": "Incorrect API key provided: sk-t**st.",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            }
        },
    ),
    "responses": _refused(
        401,
        {
            "error": {
                "message": "Your API key has been disabled.",
                "type": "invalid_request_error",
                "code": "invalid_api_key",
            }
        },
    ),
    "anthropic": _refused(
        401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}
    ),
    "gemini": _refused(
        400,
        {
            "error": {
                "code": 400,
                "message": "API key expired. Please renew the API key.",
                "status": "INVALID_ARGUMENT",
                "details": [
                    {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
                ],
            }
        },
    ),
    "bedrock": _refused(
        403,
        {"message": "The security token included in the request is expired"},
        **{"x-amzn-ErrorType": "ExpiredTokenException"},
    ),
    "openrouter": _refused(401, {"error": {"message": "User not found.", "code": 401}}),
    "azure": _refused(
        401,
        {
            "error": {
                "code": "401",
                "message": "Access denied due to invalid subscription key or wrong API endpoint.",
            }
        },
    ),
    "xai": _refused(
        400,
        {
            "code": "Client specified an invalid argument",
            "error": "Incorrect API key provided: sk-t***st. You can obtain an API key from https://console.x.ai.",
        },
    ),
    "groq": _refused(
        401,
        {
            "error": {
                "message": "Invalid API Key",
                "type": "invalid_request_error",
                "code": "invalid_api_key",
            }
        },
    ),
    "mistral": _refused(401, {"detail": "Unauthorized"}),
    "deepseek": _refused(
        401,
        {
            "error": {
                "message": "Authentication Fails, Your api key: ****test is invalid",
                "type": "authentication_error",
                "code": "invalid_request_error",
            }
        },
    ),
}
REVOKED = _refused(401, {"error": {"message": "the key has been revoked"}})


def down(wire: Wire, kind: str) -> Reply:
    """The reply of a provider during an outage: a status 503, or the error of the wire in a stream."""
    if kind == "status":
        return _refused(503, {"error": {"message": "down"}})
    return Reply(text="", stream_error={"type": OVERLOADED.get(wire, "overloaded_error"), "message": "down"})


@dataclass(slots=True)
class Service:
    """One wire of the provider, which is out of order while ``is_broken`` is true; and its own record."""

    wire: Wire
    model: str
    reply: Reply
    is_broken: Callable[[Service], bool]
    answered: Counter[str] = field(default_factory=Counter[str])
    refused: int = 0
    began_at: float | None = None

    def refuses(self, call: Call) -> bool:
        """Whether this request gets ``reply``; the provider answers requests one after the other."""
        if call.wire != self.wire or call.model != self.model:
            return False
        self.began_at = self.began_at or time.monotonic()
        if self.is_broken(self):
            self.refused += 1
            return True
        self.answered[call.prompt] += 1
        return False

    def seconds(self) -> float:
        """Seconds since the first request."""
        return time.monotonic() - (self.began_at or time.monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """End of a run: its result or the hold, and the record of the provider."""

    service: Service
    rows: int
    seconds: float
    result: AnnotationResult | None = None
    paused: RunPausedError | None = None

    @property
    def statuses(self) -> dict[str, int]:
        """Rows by status, without the statuses that no row has."""
        counts = self.result.counts if self.result else {}
        return {status: count for status, count in counts.items() if count}

    @property
    def sent_twice(self) -> list[str]:
        """Prompts that the provider answered more than once."""
        return [prompt for prompt, count in self.service.answered.items() if count > 1]

    def line(self) -> str:
        """A line of the table: wire, rows, attempts, requests, seconds."""
        attempts = len(self.result.attempts) if self.result else 0
        requests = self.service.answered.total() + self.service.refused
        done = self.statuses.get("completed", 0)
        cells = (self.service.wire, f"{done}/{self.rows}", attempts, requests, f"{self.seconds:.0f}")
        return f"| {' | '.join(map(str, cells))} |"


HEAD = "| wire | rows completed | attempts | requests | seconds |\n|---|---|---|---|---|"


class Office:
    """A provider with a model for each number of rows, and runs over its wires."""

    def __init__(self, provider: ScriptedProvider, binary: Path, folder: Path) -> None:
        self._provider = provider
        provider.models = {**provider.models, "alone": provider.models["free"]}
        self._binary = binary
        self._folder = folder

    def run(self, services: Sequence[tuple[Service, int]]) -> list[Ended]:
        """Run the rows of each service, all services at once."""
        for service, _ in services:
            self._provider.on(service.refuses, service.reply)
        return self.run_again(services)

    def run_again(self, services: Sequence[tuple[Service, int]]) -> list[Ended]:
        """Repeat each run: the rows that are open are sent."""
        with ThreadPoolExecutor(len(services)) as pool:
            return list(pool.map(lambda each: self._annotate(*each), services))

    def _annotate(self, service: Service, rows: int) -> Ended:
        prompts = [f"row {number:03}" for number in range(rows)]
        config = self._provider.opencode_config(name=service.wire, wire=service.wire)
        started = time.monotonic()
        result, paused = None, None
        try:
            result = annotate(
                pd.DataFrame({"id": prompts, "prompt": prompts}),
                id_column="id",
                model=f"{service.wire}/{service.model}",
                opencode_config=config,
                opencode_bin=str(self._binary),
                ledger=str(self._folder / f"{service.wire}-{rows}.db"),
                concurrency=4,
                batch_size=rows,
            )
            _ = result.counts, result.attempts
        except RunPausedError as error:
            paused = error
        seconds = time.monotonic() - started
        return Ended(service=service, rows=rows, seconds=seconds, result=result, paused=paused)


def on_all_wires(replies: Callable[[Wire], Reply], is_broken: Callable[[Service], bool]) -> list[Service]:
    """A service for each wire."""
    return [Service(wire, "echo", replies(wire), is_broken) for wire in WIRES]
