"""Cases that are tried on every wire: what the provider does, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rig import BASH, Asked, Rig

from opencode_tasks.errors import (
    AuthenticationError,
    BillingError,
    ContentFilteredError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    RateLimitError,
    ServerError,
)
from opencode_tasks.opencode.backend import DEFAULT_AGENT, BackendName, Clocks, Secrets
from opencode_tasks.opencode.config import merge
from opencode_tasks.testing import Reply, Wire

WIRES: tuple[Wire, ...] = get_args(Wire)
# No case ends by a clock, and processes of opencode start slowly side by side.
CLOCKS = Clocks(first_event_s=240, stall_s=240, total_s=300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider in the opencode config: its wire, the SDK if it is not the wire's, and the API it speaks.

    ``api`` is the wire whose words for errors and finish reasons the provider has; None is ``wire``.
    ``has_key`` is False if the key is in the environment, where opencode looks for it.
    """

    wire: Wire
    npm: str | None = None
    api: Wire | None = None
    has_key: bool = True

    @property
    def words(self) -> Wire:
        return self.api or self.wire


# By the id of the provider. opencode 1.18 speaks Responses with xAI if the key is in the environment, and
# chat completions with a provider of another id.
PROVIDERS: dict[str, Provider] = {
    **{wire: Provider(wire=wire) for wire in WIRES},
    "xai": Provider(wire="xai", api="responses", has_key=False),
    "xai-chat": Provider(wire="xai"),
    "github-copilot": Provider(wire="chat", npm="@ai-sdk/github-copilot"),
    "vertex": Provider(wire="gemini", npm="@ai-sdk/google-vertex"),
}
XAI_KEY = {"XAI_API_KEY": "sk-test"}
# Bedrock names the kind of an error inside a stream; other wires have OpenAI's or Anthropic's names.
OVERLOADED = {"bedrock": "serviceUnavailableException"}
LIMITED = {"bedrock": "throttlingException"}
CUTS: dict[Wire, tuple[str, str]] = {
    "responses": ("max_output_tokens", "content_filter"),
    "azure": ("max_output_tokens", "content_filter"),
    "anthropic": ("max_tokens", "refusal"),
    "gemini": ("MAX_TOKENS", "SAFETY"),
    "bedrock": ("max_tokens", "guardrail_intervened"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WireCase:
    """One case.

    Attributes:
        replies: The replies of the provider on a wire, one for each request.
        error: The exception; None for an answer.
        text: Text of the answer.
        wait_s: Seconds until the end of the rate limit; None for another error.
        steps: Number of model calls that the answer has.
        agent: Agent that is asked.
    """

    replies: Callable[[Wire], tuple[Reply, ...]]
    error: type[OpenCodeError] | None = None
    text: str = "whole"
    wait_s: float | None = None
    steps: int = 1
    agent: str = DEFAULT_AGENT


def _refused(status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> Reply:
    return Reply(status=status, headers=headers or {}, body={"error": {"message": message, **more}})


def _failed(kinds: dict[str, str], default: str, message: str) -> Callable[[Wire], tuple[Reply, ...]]:
    def replies(wire: Wire) -> tuple[Reply, ...]:
        # A Responses error with a type is an event of its own, one with a code a failed response.
        kind = {"type": kinds.get(wire, default)}
        return (Reply(text="", stream_error={**kind, "message": message}),)

    return replies


def _always(*replies: Reply) -> Callable[[Wire], tuple[Reply, ...]]:
    return lambda _: replies


def _cut(place: int) -> Callable[[Wire], tuple[Reply, ...]]:
    return lambda wire: (
        Reply(text="half", finish_reason=CUTS.get(wire, ("length", "content_filter"))[place]),
    )


TOO_LONG = "prompt is too long: 215000 tokens > 200000 maximum context length"
CASES: dict[str, WireCase] = {
    "401": WireCase(replies=_always(_refused(401, "no such key A500")), error=AuthenticationError),
    "402": WireCase(replies=_always(_refused(402, "can only afford 2500")), error=BillingError),
    "429 for two hours": WireCase(
        replies=_always(_refused(429, "slow down", {"Retry-After": "7200"})),
        error=RateLimitError,
        wait_s=7200,
    ),
    "429 in words": WireCase(
        replies=_always(_refused(429, "Limit reached. Please try again in 6m2.88s.")),
        error=RateLimitError,
        wait_s=362.88,
    ),
    "429 without credit": WireCase(
        replies=_always(_refused(429, "Insufficient balance", code="1113")), error=BillingError
    ),
    "500": WireCase(replies=_always(_refused(500, "boom")), error=ServerError),
    "503": WireCase(replies=_always(_refused(503, "Loading model")), error=ServerError),
    "400": WireCase(
        replies=_always(_refused(400, "field 500 is wrong; try again later")), error=InvalidRequestError
    ),
    "404": WireCase(replies=_always(_refused(404, "The model does not exist")), error=InvalidRequestError),
    "400 content": WireCase(
        replies=_always(_refused(400, "Output blocked by content filtering policy")),
        error=ContentFilteredError,
    ),
    "400 context": WireCase(replies=_always(_refused(400, TOO_LONG)), error=MaxOutputTokensError),
    "overloaded in stream": WireCase(
        replies=_failed(OVERLOADED, "overloaded_error", "Overloaded"), error=ServerError
    ),
    "limit in stream": WireCase(
        replies=_failed(LIMITED, "rate_limit_error", "Please try again in 20s."),
        error=RateLimitError,
        wait_s=20,
    ),
    "no connection": WireCase(replies=_always(Reply(reset=True)), error=ServerError),
    "cut connection": WireCase(
        replies=_always(Reply(text="abcdef", chunks=3, cut_after=1)), error=ServerError
    ),
    "cut stream": WireCase(replies=_always(Reply(text="half", has_end=False)), error=ServerError),
    "HTML": WireCase(
        replies=_always(Reply(raw=b"<html><title>Sign in</title></html>", content_type="text/html")),
        error=ServerError,
    ),
    "output limit": WireCase(replies=_cut(0), error=MaxOutputTokensError),
    "filtered answer": WireCase(replies=_cut(1), error=ContentFilteredError),
    "answer": WireCase(replies=_always(Reply(text="whole", chunks=3))),
    "cached and reasoned": WireCase(
        replies=_always(
            Reply(
                text="whole",
                reasoning_text="Hm.",
                input_tokens=100,
                cache_read_tokens=30,
                output_tokens=20,
                reasoning_tokens=5,
            )
        )
    ),
    "tool": WireCase(replies=_always(Reply(tool_calls=[BASH]), Reply(text="whole")), steps=2, agent="worker"),
    "no usage": WireCase(replies=_always(Reply(text="whole", reports_usage=False))),
    "comments": WireCase(replies=_always(Reply(text="whole", keep_alive_s=1.5))),
    "unknown end": WireCase(replies=lambda wire: (Reply(text="whole", finish_reason=_unknown_end(wire)),)),
}


def _unknown_end(wire: Wire) -> str | None:
    # A Responses stream has no finish reason, and Bedrock's reasons are those of AWS.
    return None if wire in ("responses", "azure", "bedrock") else "eos"


def wired_rig(binary: Path) -> Rig:
    """A rig with all PROVIDERS."""
    config: dict[str, Any] = {}
    rig = Rig(binary)
    for name, provider in PROVIDERS.items():
        key = "sk-test" if provider.has_key else None
        own = rig.provider.opencode_config(name=name, wire=provider.wire, api_key=key)
        if provider.npm is not None:
            own["provider"][name]["npm"] = provider.npm
        config = merge(config, own)
    rig.configure(config)
    rig.spec = replace(rig.spec, secrets=Secrets(environment=XAI_KEY))
    return rig


def faults_of(rig: Rig, provider: str, name: str, backend: BackendName) -> tuple[Asked, list[str]]:
    """Try a case with one of PROVIDERS; return what was asked, and what is wrong with it."""
    case = CASES[name]
    system = "Be brief." if case.agent == DEFAULT_AGENT else None
    asked = rig.ask(
        *case.replies(PROVIDERS[provider].words),
        model=f"{provider}/echo",
        agent=case.agent,
        system=system,
        backend=backend,
        clocks=CLOCKS,
    )
    checks = {
        f"{len(asked.calls)} requests": len(asked.calls) == case.steps,
        f"class {type(asked.error).__name__}": type(asked.error) is (case.error or type(None)),
        "text": case.error is not None or (asked.answer is not None and asked.answer.text == case.text),
        "reset time": case.wait_s is None or _is_reset(asked, case.wait_s),
        "usage": case.error is not None or _is_usage(asked, is_reported=name != "no usage"),
    }
    return asked, [name for name, is_right in checks.items() if not is_right]


def _is_reset(asked: Asked, wait_s: float) -> bool:
    error = asked.error
    if not isinstance(error, RateLimitError):
        return False
    return abs(error.reset_time.timestamp() - asked.at - wait_s) < 5 + asked.seconds


def _is_usage(asked: Asked, *, is_reported: bool) -> bool:
    """Whether the ledger's tokens are those that the provider counted; unknown ones are None."""
    usages = [step.usage for step in asked.attempt.steps]
    if not is_reported:
        return all(usage.input_tokens is None and usage.cost_pico is None for usage in usages)
    counted = sum(call.input_tokens + call.output_tokens for call in asked.calls)
    names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
    recorded = sum(getattr(usage, name) or 0 for usage in usages for name in names)
    return recorded == counted and all(usage.cost_pico for usage in usages)
