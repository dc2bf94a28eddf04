"""Failed answers of providers, each with the class that is right for it.

Shapes are from the providers' references and from public reports; names and ids are replaced. The unit
tests send each through the classifier, the integration tests through the real opencode on the wire that
the provider speaks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

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
from opencode_tasks.testing import Reply, Wire

Body = Mapping[str, Any] | list[Any] | str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAnswer:
    """One answer of a provider.

    Attributes:
        name: Name of the case, "provider: what".
        kind: The exception that is right.
        status: HTTP status; None for an error event inside a stream that began with status 200.
        body: Body of the answer, or the error event.
        headers: Headers of the answer.
        wire: Wire that the provider speaks.
        wait_s: Seconds until the end of a rate limit; None if it is not checked.
        is_final: Whether the row fails without a second attempt although its class is retried.
        concerns_all_rows: Whether every row would fail in the same way.
    """

    name: str
    kind: type[OpenCodeError]
    status: int | None
    body: Body
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    wire: Wire = "chat"
    wait_s: float | None = None
    is_final: bool = False
    concerns_all_rows: bool = False

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body if isinstance(self.body, str) else json.dumps(self.body)

    @property
    def reply(self) -> Reply:
        """The answer as a reply of the scripted provider."""
        if self.status is None:
            assert isinstance(self.body, Mapping)
            return Reply(text="", stream_error=self.body)
        return Reply(status=self.status, headers=self.headers, body=self.text)


def error(message: str, **more: Any) -> dict[str, Any]:
    """``{"error": {"message": …}}``, the usual body."""
    return {"error": {"message": message, **more}}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    """Body of Anthropic's errors."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def google(message: str, code: int, status: str, *details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Body of Google's errors, as a list of one."""
    named = [{**detail, "@type": f"type.googleapis.com/google.rpc.{detail['@type']}"} for detail in details]
    return [{"error": {"code": code, "message": message, "status": status, "details": named}}]


def _epoch(seconds: float) -> str:
    return str(int(time.time() + seconds))


def _utc(seconds: float) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


_TPM = "tokens per min (TPM): Limit 30000"
_QUOTA = "You exceeded your current quota, please check your plan and billing details."
_SPENT_TEAM = {
    "code": "Some resource has been exhausted",
    "error": "Your team t-1 has either used all available credits or reached its monthly spending limit. "
    "To continue making API requests, please purchase more credits or raise your spending limit.",
}
_MOONSHOT = error(
    "Your account org-1 <ak-1> is suspended due to insufficient balance, please recharge your account or "
    "check your plan and billing details",
    type="exceeded_current_quota_error",
)


def case(name: str, kind: type[OpenCodeError], status: int | None, body: Body, **more: Any) -> FailedAnswer:
    """A row of the table."""
    return FailedAnswer(name=name, kind=kind, status=status, body=body, **more)


def _openai() -> Iterator[FailedAnswer]:
    yield case(
        "openai: larger than the limit",
        InvalidRequestError,
        429,
        error(
            f"Request too large for gpt-x in organization org-1 on {_TPM}, Requested 45007. The input or "
            "output tokens must be reduced in order to run successfully.",
            type="tokens",
            param=None,
            code="rate_limit_exceeded",
        ),
        wire="responses",
    )
    yield case(
        "openai: limit reached",
        RateLimitError,
        429,
        error(
            f"Rate limit reached for gpt-x on {_TPM}, Used 29000, Requested 2000. Please try again in 2s.",
            type="tokens",
            code="rate_limit_exceeded",
        ),
        wire="responses",
        wait_s=2,
    )
    yield case(
        "openai: key with digits",
        AuthenticationError,
        401,
        error(
            "Incorrect API key provided: sk-…A500. You can find your API key at the dashboard.",
            type="invalid_request_error",
            code="invalid_api_key",
        ),
        wire="responses",
    )
    yield case(
        "openai: no such model",
        InvalidRequestError,
        404,
        error("The model `x` does not exist", type="invalid_request_error", code="model_not_found"),
        wire="responses",
        concerns_all_rows=True,
    )
    yield case(
        "openai: no quota",
        BillingError,
        429,
        error(_QUOTA, type="insufficient_quota", code="insufficient_quota"),
    )
    yield case(
        "openai: stream failed",
        ServerError,
        None,
        {"code": "server_error", "message": "The server had an error while processing your request"},
        wire="responses",
    )
    yield case(
        "openai: limit inside a stream",
        RateLimitError,
        None,
        {"code": "rate_limit_exceeded", "message": "Rate limit reached. Please try again in 11s."},
        wire="responses",
        wait_s=11,
    )
    yield case(
        "codex: plan",
        RateLimitError,
        429,
        error("The usage limit has been reached", type="usage_limit_reached", resets_in_seconds=7200),
        wire="responses",
        wait_s=7200,
    )


def _anthropic() -> Iterator[FailedAnswer]:
    day = datetime.now(UTC).date() + timedelta(days=3)
    until_day = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() - time.time()
    for status, kind, message, right, more in (
        (
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
            BillingError,
            {},
        ),
        (
            400,
            "invalid_request_error",
            f"You have reached your API usage limits. You will regain access on {day} at 00:00 UTC.",
            RateLimitError,
            {"wait_s": until_day},
        ),
        (
            400,
            "invalid_request_error",
            "max_tokens: 85000 > 64000, which is the maximum allowed number of output tokens for claude-x",
            InvalidRequestError,
            {},
        ),
        (
            400,
            "invalid_request_error",
            "prompt is too long: 215000 tokens > 200000 maximum",
            MaxOutputTokensError,
            {"is_final": True},
        ),
        (
            413,
            "request_too_large",
            "Request exceeds the maximum size",
            MaxOutputTokensError,
            {"is_final": True},
        ),
        (
            400,
            "invalid_request_error",
            "Output blocked by content filtering policy",
            ContentFilteredError,
            {},
        ),
        (
            429,
            "rate_limit_error",
            "This request would exceed your rate limit",
            RateLimitError,
            {"headers": {"anthropic-ratelimit-requests-reset": _utc(3600)}, "wait_s": 3600},
        ),
        (
            429,
            "rate_limit_error",
            "This request would exceed the rate limit of your plan",
            RateLimitError,
            {"headers": {"anthropic-ratelimit-unified-reset": _epoch(1800)}, "wait_s": 1800},
        ),
        (404, "not_found_error", "model: claude-x", InvalidRequestError, {"concerns_all_rows": True}),
        (None, "overloaded_error", "Overloaded", ServerError, {}),
        (None, "api_error", "Internal server error", ServerError, {}),
        (None, "rate_limit_error", "Number of requests has exceeded your limit", RateLimitError, {}),
        (
            None,
            "invalid_request_error",
            "Output blocked by content filtering policy",
            ContentFilteredError,
            {},
        ),
    ):
        where = f" {status}" if status else " in stream"
        body = anthropic(kind, message)
        yield case(
            f"anthropic: {message[:40]}{where}",
            right,
            status,
            body if status else body["error"],
            wire="anthropic",
            **more,
        )


def _google() -> Iterator[FailedAnswer]:
    invalid_key = {"@type": "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
    per_day = {
        "@type": "QuotaFailure",
        "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
    }
    short = {"@type": "RetryInfo", "retryDelay": "36s"}
    key = "API key not valid. Please pass a valid API key."
    yield case(
        "gemini: dead key",
        AuthenticationError,
        400,
        google(key, 400, "INVALID_ARGUMENT", invalid_key),
        wire="gemini",
    )
    (single,) = google(
        "API key expired.", 400, "INVALID_ARGUMENT", {**invalid_key, "reason": "API_KEY_EXPIRED"}
    )
    yield case("gemini: expired key", AuthenticationError, 400, single, wire="gemini")
    yield case(
        "gemini: per minute",
        RateLimitError,
        429,
        google(_QUOTA, 429, "RESOURCE_EXHAUSTED", short),
        wire="gemini",
        wait_s=36,
    )
    yield case(
        "gemini: per day",
        RateLimitError,
        429,
        google(_QUOTA, 429, "RESOURCE_EXHAUSTED", per_day, short),
        wire="gemini",
    )
    disabled = "Generative Language API has not been used in project 12345678500 before or it is disabled."
    yield case(
        "gemini: disabled",
        AuthenticationError,
        403,
        google(disabled, 403, "PERMISSION_DENIED"),
        wire="gemini",
    )
    tokens = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
    yield case(
        "gemini: too long",
        MaxOutputTokensError,
        400,
        google(tokens, 400, "INVALID_ARGUMENT"),
        wire="gemini",
        is_final=True,
    )
    yield case(
        "gemini: overloaded in stream",
        ServerError,
        None,
        {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"},
        wire="gemini",
    )


def _xai() -> Iterator[FailedAnswer]:
    wrong = {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: ab***yz."}
    yield case("xai: dead key", AuthenticationError, 400, wrong, wire="xai")
    yield case("xai: spent 429", BillingError, 429, _SPENT_TEAM, wire="xai")
    yield case("xai: spent 403", BillingError, 403, _SPENT_TEAM, wire="xai")
    usage = {
        "code": "The caller does not have permission",
        "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
    }
    yield case("xai: refused content", ContentFilteredError, 403, usage, wire="xai")


def _chinese() -> Iterator[FailedAnswer]:
    beijing = datetime.now(UTC) + timedelta(hours=8, seconds=7200)
    yield case(
        "z.ai: no balance",
        BillingError,
        429,
        error("Insufficient balance or no resource package. Please recharge.", code="1113"),
    )
    ends = f"Usage limit reached for 5 hour. Your limit will reset at {beijing:%Y-%m-%d %H:%M:%S}"
    yield case("z.ai: five hours", RateLimitError, 429, error(ends, code="1308"), wait_s=7200)
    yield case(
        "z.ai: sensitive",
        ContentFilteredError,
        400,
        error("System detected potentially unsafe content.", code="1301"),
    )
    yield case("moonshot: spent 429", BillingError, 429, _MOONSHOT)
    yield case("moonshot: spent 403", BillingError, 403, _MOONSHOT)
    soon = "Your account org-1 request reached max request: 3, please try again after 1 seconds"
    yield case("moonshot: limit", RateLimitError, 429, error(soon, type="rate_limit_reached_error"), wait_s=1)
    broke = error("Insufficient Balance", type="unknown_error", code="invalid_request_error")
    yield case("deepseek: no balance", BillingError, 402, broke, wire="deepseek")
    risk = error("Content Exists Risk", type="invalid_request_error", code="invalid_request_error")
    yield case("deepseek: refused content", ContentFilteredError, 400, risk, wire="deepseek")


def _openrouter() -> Iterator[FailedAnswer]:
    afford = (
        "This request requires more credits, or fewer max_tokens. You requested up to 32000 tokens, but can "
        "only afford 2500."
    )
    yield case("openrouter: can afford", BillingError, 402, error(afford, code=402), wire="openrouter")
    yield case(
        "openrouter: key limit",
        BillingError,
        403,
        error("Key limit exceeded (total limit). Manage it in the settings.", code=403),
        wire="openrouter",
    )
    flagged = error(
        "Your chosen model requires moderation and your input was flagged",
        code=403,
        metadata={"reasons": ["violence"], "flagged_input": "a text"},
    )
    yield case("openrouter: moderation", ContentFilteredError, 403, flagged, wire="openrouter")
    free = error(
        "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day",
        code=429,
        metadata={
            "headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{_epoch(5400)}000"},
        },
    )
    yield case("openrouter: free models", RateLimitError, 429, free, wire="openrouter", wait_s=5400)
    behind = error(
        "Provider returned error",
        code=429,
        metadata={"raw": json.dumps(error("slow down", code="rate_limit_exceeded")), "provider_name": "P"},
    )
    yield case("openrouter: provider behind it", RateLimitError, 429, behind, wire="openrouter")
    yield case(
        "openrouter: disconnected in stream",
        ServerError,
        None,
        {"code": 502, "message": "Provider disconnected"},
        wire="openrouter",
    )
    yield case(
        "openrouter: no credit in stream",
        BillingError,
        None,
        {"code": 402, "message": "Insufficient credits"},
        wire="openrouter",
    )


def _gateways() -> Iterator[FailedAnswer]:
    blocked = error(
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        param="prompt",
        code="content_filter",
        innererror={"code": "ResponsibleAIPolicyViolation"},
    )
    yield case("azure: filter", ContentFilteredError, 400, blocked, wire="azure")
    tier = (
        "Requests have exceeded token rate limit of your current pricing tier. Please retry after 26 seconds."
    )
    yield case("azure: tier", RateLimitError, 429, error(tier, code="429"), wire="azure", wait_s=26)
    yield case(
        "azure: no deployment",
        InvalidRequestError,
        404,
        error("The API deployment for this resource does not exist.", code="DeploymentNotFound"),
        wire="azure",
        concerns_all_rows=True,
    )
    tpd = (
        "Rate limit reached on tokens per day (TPD): Limit 100000, Used 99800, Requested 620. Please try "
        "again in 6m2.88s. Need more tokens? Upgrade at settings/billing"
    )
    windows = {"x-ratelimit-reset-tokens": "7.66s", "x-ratelimit-reset-requests": "2m59.56s"}
    yield case(
        "groq: per day",
        RateLimitError,
        429,
        error(tpd, type="tokens", code="rate_limit_exceeded"),
        headers=windows,
        wire="groq",
        wait_s=362.88,
    )
    yield case(
        "groq: window",
        RateLimitError,
        429,
        error("Slow down", code="rate_limit_exceeded"),
        headers={
            "x-ratelimit-reset-tokens": "7.66s",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-remaining-requests": "900",
        },
        wire="groq",
        wait_s=7.66,
    )
    zen = {
        "type": "error",
        "error": {
            "type": "CreditsError",
            "message": "No payment method. Add a payment method here: the billing page",
        },
    }
    yield case("zen: no payment", BillingError, 401, zen)
    yield case(
        "zen: no model",
        InvalidRequestError,
        401,
        {"type": "error", "error": {"type": "ModelError", "message": "Model x not supported"}},
        concerns_all_rows=True,
    )
    yield case(
        "litellm: budget",
        BillingError,
        400,
        error(
            "Budget has been exceeded! Current cost: 1.03, Max budget: 1.0",
            type="budget_exceeded",
            code="400",
        ),
    )
    yield case(
        "bedrock: throttled",
        RateLimitError,
        429,
        {"message": "Too many tokens, please wait before trying again."},
        headers={"x-amzn-errortype": "ThrottlingException"},
        wire="bedrock",
    )
    yield case(
        "bedrock: too long",
        MaxOutputTokensError,
        400,
        {"message": "Input is too long for requested model."},
        headers={"x-amzn-errortype": "ValidationException"},
        wire="bedrock",
        is_final=True,
    )


def _local() -> Iterator[FailedAnswer]:
    vllm = (
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in "
        "the messages, 1000 in the completion)."
    )
    yield case(
        "vllm: too long",
        MaxOutputTokensError,
        400,
        {"object": "error", "message": vllm, "type": "BadRequestError", "code": 400},
        is_final=True,
    )
    llama = error(
        "the request exceeds the available context size, try increasing it",
        code=400,
        type="exceed_context_size_error",
        n_prompt_tokens=9000,
        n_ctx=4096,
    )
    yield case("llama.cpp: too long", MaxOutputTokensError, 400, llama, is_final=True)
    yield case("llama.cpp: too long in stream", MaxOutputTokensError, None, llama["error"], is_final=True)
    yield case(
        "llama.cpp: loading", ServerError, 503, error("Loading model", code=503, type="unavailable_error")
    )
    yield case(
        "lm studio: too long",
        MaxOutputTokensError,
        400,
        error("The number of tokens to keep from the initial prompt is greater than the context length."),
        is_final=True,
    )
    yield case(
        "copilot: too long",
        MaxOutputTokensError,
        400,
        error(
            "prompt token count of 130000 exceeds the limit of 128000",
            code="model_max_prompt_tokens_exceeded",
        ),
        is_final=True,
    )
    yield case(
        "ollama: no model",
        InvalidRequestError,
        404,
        error('model "x" not found, try pulling it first', type="api_error"),
        concerns_all_rows=True,
    )


def _any() -> Iterator[FailedAnswer]:
    yield case(
        "any: limit in stream",
        RateLimitError,
        None,
        {"message": "Rate limit exceeded", "type": "rate_limit_error", "code": 429},
    )
    yield case(
        "any: epoch",
        RateLimitError,
        429,
        error("slow down"),
        headers={"Retry-After": _epoch(120)},
        wait_s=120,
    )
    yield case(
        "any: epoch in ms",
        RateLimitError,
        429,
        error("slow down"),
        headers={"Retry-After": f"{_epoch(120)}000"},
        wait_s=120,
    )
    yield case(
        "any: 58 hours",
        RateLimitError,
        429,
        error("slow down"),
        headers={"Retry-After": "208800"},
        wait_s=208800,
    )
    yield case("any: 425", ServerError, 425, error("too early"))
    yield case("any: 499", ServerError, 499, error("client closed request"))
    yield case(
        "any: guardrail 500",
        ContentFilteredError,
        500,
        error("Guardrail raised an exception: violated moderation policy"),
    )
    yield case(
        "any: guardrail 400", ContentFilteredError, 400, error("Request blocked by guardrail pii-check")
    )
    yield case(
        "any: digits",
        InvalidRequestError,
        400,
        error("field 500 of request req_429502 is wrong; try again later"),
    )


def _plans() -> Iterator[FailedAnswer]:
    """Subscriptions, relays and less common providers."""
    paid = "Extra usage is required for long context requests."
    yield case(
        "claude plan: extra usage", BillingError, 429, anthropic("rate_limit_error", paid), wire="anthropic"
    )
    windows = {
        "anthropic-ratelimit-unified-reset": _epoch(9000),
        "anthropic-ratelimit-unified-5h-status": "rejected",
        "anthropic-ratelimit-unified-5h-reset": _epoch(9000),
        "anthropic-ratelimit-unified-7d-status": "allowed",
        "anthropic-ratelimit-unified-7d-reset": _epoch(300_000),
    }
    limited = anthropic("rate_limit_error", "This request would exceed your account's rate limit.")
    yield case(
        "claude plan: five hours",
        RateLimitError,
        429,
        limited,
        headers=windows,
        wire="anthropic",
        wait_s=9000,
    )
    disabled = anthropic("invalid_request_error", "This organization has been disabled.")
    yield case("anthropic: disabled", AuthenticationError, 400, disabled, wire="anthropic")
    minute = error("Request rate exceeds. See error-code#token-limit", code="insufficient_quota")
    yield case("alibaba: per minute", RateLimitError, 429, minute)
    yield case(
        "alibaba: free tier", BillingError, 403, error("Use paid.", code="AllocationQuota.FreeTierOnly")
    )
    length = error("Range of input length should be [1, 204800]", code="invalid_parameter_error")
    yield case("alibaba: too long", MaxOutputTokensError, 400, length, is_final=True)
    spent = {"type": "error", "error": {"type": "api_error", "message": "insufficient balance (1008)"}}
    yield case("minimax: spent", BillingError, 500, spent)
    token_limit = "Invalid request: Your request exceeded model token limit: 262144 (requested: 300000)"
    yield case("moonshot: too long", MaxOutputTokensError, 400, error(token_limit), is_final=True)
    beijing = datetime.now(UTC) + timedelta(hours=8, seconds=3600)
    chinese = f"您的限额将在 {beijing:%Y-%m-%d %H:%M:%S} 重置"
    yield case("z.ai: in Chinese", RateLimitError, 429, error(chinese, code="1308"), wait_s=3600)
    hourly = "you (a user) have reached your hourly usage limit, upgrade for higher limits"
    yield case("ollama cloud: hourly", RateLimitError, 429, {"error": hourly})
    raw = json.dumps(error("This model's maximum context length is 131072 tokens."))
    behind = error("Provider returned error", code=400, metadata={"raw": raw, "provider_name": "P"})
    yield case(
        "openrouter: too long behind it", MaxOutputTokensError, 400, behind, wire="openrouter", is_final=True
    )
    image = error("No endpoints found that support image input", code=404)
    yield case("openrouter: image", InvalidRequestError, 404, image, wire="openrouter")
    weeks = error("Usage limit reached. Resets in 2 weeks.", type="GoUsageLimitError")
    yield case("opencode go: weeks", RateLimitError, 429, weeks, wait_s=14 * 86_400)
    for text in (
        "Invalid token ID in logit_bias",
        "Unsupported model parameter: top_k",
        "Model gpt-x: parameter 'stop' is not supported",
        "Failed due to unsupported content-type",
        "thinking budget exceeded: budget_tokens must be less than max_tokens",
        "Unknown enum: 'overdue'",
        "input_schema.properties: key 'a b' is invalid",
    ):
        yield case(f"any: {text}", InvalidRequestError, 400, error(text, type="invalid_request_error"))


def _by_words_of_a_value() -> Iterator[FailedAnswer]:
    """Values that no rule lists; their words decide."""
    for name, kind, status, body in (
        (
            "novita: balance",
            BillingError,
            403,
            {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "no"},
        ),
        (
            "novita: key",
            AuthenticationError,
            401,
            {"code": 401, "reason": "INVALID_API_KEY", "message": "no"},
        ),
        ("volcengine: limit of a person", BillingError, 429, error("paused", code="SetLimitExceeded")),
        ("volcengine: overdue", BillingError, 403, error("The request failed", code="AccountOverdueError")),
        (
            "volcengine: content",
            ContentFilteredError,
            400,
            error("The request failed.", code="InputTextSensitiveContentDetected"),
        ),
        ("stepfun: content", ContentFilteredError, 451, error("no", type="censorship_blocked")),
        ("helicone: threat", ContentFilteredError, 400, error("no", code="PROMPT_THREAT_DETECTED")),
        ("watsonx: quota", BillingError, 403, {"errors": [{"code": "token_quota_reached", "message": "no"}]}),
        ("groq: flex", ServerError, 498, error("try again later", code="capacity_exceeded")),
        (
            "tencent: resource pack",
            BillingError,
            403,
            error("no", code="ResourceUnavailable.ResourcePackExhausted"),
        ),
        (
            "siliconflow: balance",
            BillingError,
            403,
            {"code": 30001, "message": "Account balance is insufficient"},
        ),
    ):
        yield case(name, kind, status, body)
    missing = error("no access", code="InvalidEndpointOrModel.NotFound")
    yield case("volcengine: model", InvalidRequestError, 404, missing, concerns_all_rows=True)


def _aws() -> Iterator[FailedAnswer]:
    """Names of exceptions in headers, with a namespace, as keys of events and in words."""
    for name, kind, status, text in (
        ("ModelNotReadyException", ServerError, 429, "Model is not ready for inference."),
        ("ModelErrorException", ServerError, 424, "The system encountered an unexpected error."),
        (
            "AccessDeniedException",
            BillingError,
            403,
            "INVALID_PAYMENT_INSTRUMENT. Try again after 15 minutes.",
        ),
        ("ThrottlingException", RateLimitError, 429, "Too many tokens per day, please wait."),
    ):
        headers = {"x-amzn-errortype": name}
        wait_s = 3600 if "day" in text else None
        yield case(
            f"bedrock: {name}",
            kind,
            status,
            {"message": text},
            headers=headers,
            wire="bedrock",
            wait_s=wait_s,
        )
    yield case(
        "aws: namespace",
        RateLimitError,
        400,
        {"__type": "com.amazon.coral.availability#ThrottlingException", "message": "Rate exceeded"},
    )
    words = "An error occurred (ThrottlingException) when calling the ConverseStream operation: Too many"
    yield case("relay: words of botocore", RateLimitError, 500, {"detail": words})
    event = {"validationException": {"message": "text content blocks must be non-empty"}}
    yield case("relay: event of AWS", InvalidRequestError, None, event)
    quota = {
        "statusCode": 403,
        "message": "Out of call volume quota. Quota will be replenished in 1.03:23:11.",
    }
    yield case("azure api management: quota", RateLimitError, 403, quota, wait_s=86_400 + 12_191)


def _relays() -> Iterator[FailedAnswer]:
    """Errors inside the text of another error, and what the client sent, quoted in a message."""
    python = (
        "Error code: 429 - {'error': {'message': 'You exceeded your current quota', 'type': "
        "'insufficient_quota', 'code': 'insufficient_quota'}}"
    )
    yield case("relay: error of Python's SDK", BillingError, 500, {"detail": python})
    wrapped = "litellm.ContentPolicyViolationError: litellm.BadRequestError: AzureException - refused"
    yield case("litellm: content", ContentFilteredError, 400, error(wrapped, code="400"))
    quoted = (
        "[{'type': 'extra_forbidden', 'loc': ('body',), 'input': 'insufficient balance, invalid api key'}]"
    )
    yield case("vllm: quotes the input", InvalidRequestError, 400, {"object": "error", "message": quoted})
    instead = "Invalid type for 'messages[0]': expected a string, but got instead: 'payment required'"
    yield case("openai: quotes the input", InvalidRequestError, 400, error(instead, code="invalid_type"))
    inner = json.dumps(error("Insufficient Balance", code="invalid_request_error"))
    yield case("iflow: JSON in JSON", BillingError, 402, error(inner, type="EngineInternalError", code="402"))
    guard = {"type": "hooks_failed"}
    yield case("portkey: guardrail", ContentFilteredError, 446, error("The checks failed.", **guard))
    used = {
        "status": "failure",
        "message": "Portkey Error: You have exhausted usage limits for this API key.",
    }
    yield case("portkey: budget", BillingError, 412, used)
    blocked = {"error": [{"code": 2017, "message": "Response blocked due to security configurations"}]}
    yield case("cloudflare: guardrail", ContentFilteredError, 424, blocked)
    tencent = {
        "Response": {"Error": {"Code": "RequestLimitExceeded", "Message": "您当前每秒请求次数超过上限"}}
    }
    yield case("tencent: capital letters", RateLimitError, None, tencent)
    baidu = {"error_code": 110, "error_msg": "Access token invalid or no longer valid"}
    yield case("baidu: key", AuthenticationError, None, baidu)
    yield case("tyk: quota", RateLimitError, 403, {"error": "Quota exceeded"})


def _long_prompts() -> Iterator[FailedAnswer]:
    for name, status, text in (
        ("sambanova", 400, "The maximum supported sequence length is just 16384!"),
        ("watsonx", 400, "the number of input tokens 9000 cannot exceed the total tokens limit 8192"),
        ("siliconflow", 400, "length of prompt_tokens (41000) must be less than max_seq_len (32768)."),
        ("tensorrt-llm", 400, "The sum of prompt length (8000), query length (0) should not exceed 4096"),
        ("mistral.rs", 500, "Prompt sequence length is greater than 4096"),
        ("iflytek", 400, "EngineInternalError: input token limit is 97280"),
    ):
        yield case(f"{name}: too long", MaxOutputTokensError, status, error(text), is_final=True)


def _limits_without_a_time() -> Iterator[FailedAnswer]:
    now = datetime.now(UTC)
    until_utc = ((now + timedelta(days=1)).replace(hour=0, minute=0, second=0) - now).total_seconds()
    clock = (now + timedelta(hours=5)).replace(second=0, microsecond=0)
    until_clock = (clock - now).total_seconds()
    for name, status, text, more, wait_s in (
        ("openrouter: a day", 429, "Rate limit exceeded: free-models-per-day. ", {}, until_utc),
        ("openrouter: a key's day", 403, "Key limit exceeded (daily limit). Manage it.", {}, until_utc),
        ("ollama cloud: a week", 429, "you've reached your weekly usage limit", {}, 3600),
        ("cohere: a month", 429, "a Trial key, which is limited to 1000 API calls / month.", {}, 3600),
        ("any: an hour", 429, "you have reached your hourly limit", {}, 600),
        ("any: an offer", 429, "Slow down. Upgrade for 1000 requests per day.", {}, 60),
        ("any: hours", 429, "Please retry in 12h3m.", {}, 43_380),
        ("any: a clock", 429, f"Your limit resets at {clock:%H:%M} UTC", {}, until_clock),
        ("any: a date", 429, f"Please wait for a reset on {clock:%B %d, %Y at %I:%M %p}", {}, until_clock),
        ("any: a time in text", 429, f"usage limit reached|{_epoch(7200)}", {}, 7200),
        ("any: a wrong year", 429, "resets at 2099-01-01", {"Retry-After": "31"}, 31),
        ("any: RateLimit", 429, "slow down", {"RateLimit": '"default";r=0;t=55'}, 55),
        ("helicone: a window", 429, "slow down", {"helicone-ratelimit-reset": "52"}, 52),
        ("any: Chinese", 429, "请 5 分钟后再试", {}, 300),
    ):
        yield case(name, RateLimitError, status, error(text), headers=more, wait_s=wait_s)
    day = google("You have exhausted your daily quota. Please retry in 20s.", 429, "RESOURCE_EXHAUSTED")
    yield case("gemini: a day in words", RateLimitError, 429, day, wire="gemini")
    nothing = google(f"{_QUOTA} limit: 0, model: x. Please retry in 31s.", 429, "RESOURCE_EXHAUSTED")
    yield case("gemini: a limit of nothing", BillingError, 429, nothing, wire="gemini")


def _limits_of_refusals() -> Iterator[FailedAnswer]:
    """Limits under the status of a refused key or request, in either order of the words, or with a time."""
    secondary = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    abuse = "You have triggered an abuse detection mechanism. Please wait before you try again."
    soon = {"retry-after": "20"}
    for name, text, headers, wait_s in (
        ("github: secondary", secondary, soon, 20),
        ("github: secondary without a time", secondary, {}, 60),
        ("github: primary", "API rate limit exceeded for user ID 1.", soon, 20),
        ("github: abuse", abuse, soon, 20),
        ("any: too many", "Too many requests from this address", {}, 60),
        ("any: the limit was exceeded", "The request limit for this key has been exceeded", {}, 60),
        ("any: hit", "You've hit your usage limit.", {}, 60),
        ("any: requests", "Number of requests has exceeded the allowed limit", soon, 20),
        ("any: slow down", "Slow down.", soon, 20),
        ("kong: quota", "API quota has been exceeded", {}, 60),
    ):
        yield case(f"{name} (403)", RateLimitError, 403, {"message": text}, headers=headers, wait_s=wait_s)
    for name, text, wait_s in (
        ("any: too many", "Too many requests, please slow down", 60),
        ("any: rate limit", "Your account's rate limit was hit; retry in 90 seconds", 90),
    ):
        yield case(f"{name} (400)", RateLimitError, 400, {"message": text}, wait_s=wait_s)
    yield case("any: calm (420)", RateLimitError, 420, {"message": "Enhance your calm"}, wait_s=60)
    for name, text in (
        ("any: a field", "max_tokens: exceeds the tokens limit of 8192 per request"),
        ("any: a parameter", "Unknown parameter: rate_limit"),
    ):
        yield case(f"{name} (400)", InvalidRequestError, 400, {"message": text})
    for name, text, headers in (
        ("databricks: a limit of 0", "The endpoint is disabled due to a rate limit set to 0.", {}),
        ("any: a key without access", "The key has no access to rate limits of this account.", {}),
        ("any: Retry-After alone", "Forbidden", soon),
    ):
        yield case(f"{name} (403)", AuthenticationError, 403, {"message": text}, headers=headers)


def page(title: str, text: str = "") -> str:
    """A page of a web server or proxy."""
    return f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1>{text}</body></html>"


def _addresses() -> Iterator[FailedAnswer]:
    """Answers to a request at a wrong address, or of what is between the client and the provider."""
    for status, title in (
        (301, "301 Moved Permanently"),
        (302, "302 Found"),
        (308, "308 Permanent Redirect"),
        (404, "404 Not Found"),
        (405, "405 Not Allowed"),
        (411, "411 Length Required"),
        (415, "415 Unsupported Media Type"),
        (417, "417 Expectation Failed"),
        (421, "421 Misdirected Request"),
        (426, "426 Upgrade Required"),
        (431, "431 Request Header Fields Too Large"),
        (501, "501 Not Implemented"),
        (505, "505 HTTP Version Not Supported"),
        (400, "400 The plain HTTP request was sent to HTTPS port"),
        (400, "Bad Request - Invalid Hostname"),
    ):
        yield case(f"address: {title}", InvalidRequestError, status, page(title), concerns_all_rows=True)
    for name, status, body in (
        ("fastapi: method", 405, {"detail": "Method Not Allowed"}),
        ("go: no TLS", 400, "Client sent an HTTP request to an HTTPS server.\n"),
        ("starlette: host", 400, "Invalid host header"),
    ):
        yield case(name, InvalidRequestError, status, body, concerns_all_rows=True)
    image = error("Unsupported media type image/tiff in messages[0]")
    yield case("any: type of an image", InvalidRequestError, 415, image)
    for name, status, text in (
        ("squid: proxy login", 407, page("ERR_CACHE_ACCESS_DENIED")),
        ("any: network login", 511, page("Network Authentication Required")),
        ("nginx: no client certificate", 400, page("400 No required SSL certificate was sent")),
    ):
        yield case(name, AuthenticationError, status, text)


def _firewalls() -> Iterator[FailedAnswer]:
    """Refusals of a proxy or a firewall, which say nothing about the key."""
    moment = page("Just a moment...", "Enable JavaScript and cookies to continue")
    challenge = {"cf-mitigated": "challenge"}
    for name, status, text, headers in (
        ("cloudflare: challenge", 403, moment, challenge),
        ("cloudflare: challenge without a header", 403, moment, {}),
        ("cloudflare: challenge with 503", 503, page("Just a moment..."), {}),
        ("cloudflare: header alone", 503, "", challenge),
        ("cloudflare: blocked", 403, page("Attention Required! | Cloudflare", "you have been blocked"), {}),
        ("cloudflare: code", 403, "error code: 1020", {}),
        ("zscaler: category", 403, page("Zscaler", "Content of this category was blocked by policy"), {}),
        ("aws: cloudfront", 403, page("ERROR: The request could not be satisfied", "Request blocked."), {}),
        ("squid: denied", 403, "Access Denied", {"x-squid-error": "ERR_ACCESS_DENIED 0"}),
        ("any: egress", 403, "Blocked by egress policy", {}),
        ("nginx: login", 401, page("401 Authorization Required"), {}),
    ):
        yield case(name, AuthenticationError, status, text, headers=headers)
    script = "<script src='/cdn-cgi/challenge-platform/scripts/jsd/main.js'></script>"
    yield case("cloudflare: a page with its script", ServerError, 502, page("502 Bad Gateway", script))
    yield case("cloudflare: too many", RateLimitError, 429, page("Access denied", "being rate limited"))
    yield case("cloudflare: origin is down", ServerError, 522, page("522: Connection timed out"))


def _refused_content() -> Iterator[FailedAnswer]:
    for name, status, text in (
        ("kong: pattern", 400, "bad request - prompt pattern is blocked"),
        ("kong: allowed patterns", 400, "bad request - prompt doesn't match any allowed pattern"),
        ("cohere: input", 498, "blocked input: please use another text"),
        ("cohere: output", 498, "blocked output"),
        ("azure: safety", 400, "The request failed the content safety check"),
        ("any: rejected", 400, "The user message was rejected by the moderation service"),
    ):
        yield case(f"{name} (content)", ContentFilteredError, status, {"message": text})
    for name, status, text in (
        ("lm studio", 400, 'Failed to load model "x". Error: insufficient system resources.'),
        ("lm studio: stopped", 400, "Model loading was stopped due to insufficient system resources"),
        ("localai", 400, "could not load model: rpc error"),
        ("lm studio: none", 400, "No models loaded. Please load a model in the developer page."),
    ):
        yield case(f"{name}: no load", InvalidRequestError, status, error(text), concerns_all_rows=True)


def _further() -> Iterator[FailedAnswer]:
    """Answers of more providers, each of which stands for a kind."""
    spend = "Blocked API access: Your organization has hit its spend limit"
    for name, kind, status, body in (
        ("groq: spend", BillingError, 400, error(spend, code="blocked_api_access")),
        ("litellm: team", BillingError, 400, error("ExceededBudget: Team=x over budget.", code="400")),
        ("litellm: user", BillingError, 400, error("ExceededBudget: User=x over budget.", type="auth_error")),
        ("lambda: funds", BillingError, 403, error("Your account does not have sufficient funds")),
        ("ai21: trial", BillingError, 403, {"detail": "You have exceeded your free trial credits"}),
        ("reka: credits", BillingError, 403, {"detail": "Your account has no credits left"}),
        ("deepinfra: card", BillingError, 402, {"detail": {"error": "please enter a payment method"}}),
        ("ollama: plan", BillingError, 403, {"error": "this model requires a subscription"}),
        ("replicate: credit", BillingError, 402, {"title": "Insufficient credit", "status": 402}),
        (
            "github: budget",
            BillingError,
            403,
            error("This account has reached its budget limit.", code="budget_limit"),
        ),
        (
            "volcengine: quota",
            BillingError,
            403,
            error("You have run out of free quota", type="AccountQuotaExceeded"),
        ),
        ("databricks: guardrail", ContentFilteredError, 400, {"message": "'input_guardrail_triggered'"}),
        (
            "databricks: key",
            AuthenticationError,
            403,
            {"error_code": "403", "message": "Invalid access token."},
        ),
        ("istio: access", AuthenticationError, 403, "RBAC: access denied"),
        ("istio: token", AuthenticationError, 401, "Jwt is expired"),
        ("litellm: key", AuthenticationError, 400, error("Authentication Error - Expired Key.", code="400")),
        ("gemini: leaked", AuthenticationError, 403, error("Your API key was reported as leaked.", code=403)),
        ("envoy: rate", RateLimitError, 429, "local_rate_limited"),
        ("deepinfra: busy", RateLimitError, 429, {"detail": {"error": "Model busy, retry later"}}),
        ("mistral: tier", RateLimitError, 429, {"message": "Service tier capacity exceeded", "code": "3505"}),
        ("envoy: no upstream", ServerError, 503, "no healthy upstream"),
        ("sglang: queue", ServerError, 503, {"object": "error", "message": "The request queue is full."}),
        ("vertex: deadline", ServerError, 504, error("Deadline expired.", status="DEADLINE_EXCEEDED")),
        ("perplexity: order", InvalidRequestError, 400, error("messages should alternate", code=400)),
    ):
        yield case(name, kind, status, body)
    for name, status, body in (
        ("siliconflow: model", 403, {"code": 30003, "message": "Model disabled.", "data": None}),
        ("ollama: tools", 400, error("registry.ollama.ai/library/x does not support tools")),
        ("vllm: tools", 400, error('"auto" tool choice requires --enable-auto-tool-choice', code=400)),
        (
            "openai: parameter",
            400,
            error("'max_tokens' is not supported with this model.", code="unsupported_parameter"),
        ),
        ("ollama: thinking", 400, {"error": '"x" does not support thinking'}),
        (
            "azure: operation",
            400,
            error("The chatCompletion operation does not work with the specified model"),
        ),
        ("cloudflare: route", 400, {"errors": [{"code": 7003, "message": "Could not route to /accounts/x"}]}),
        ("nim: function", 404, {"title": "Not Found", "detail": "Function 'f': Not found for account 'x'"}),
        ("kserve: model", 404, {"error": "Model with name x does not exist."}),
        ("litellm: model", 400, error("Invalid model name passed in model=x.", code="400")),
    ):
        yield case(name, InvalidRequestError, status, body, concerns_all_rows=True)
    longer = "The input (9000 tokens) is longer than the model's context length (8192 tokens)."
    yield case("sglang: too long", MaxOutputTokensError, 400, {"message": longer}, is_final=True)
    throttled = {"detail": "Request was throttled. Your rate limit resets in ~9s.", "retry_after": 9}
    yield case("replicate: limit", RateLimitError, 429, throttled, wait_s=9)


def _shapes() -> Iterator[FailedAnswer]:
    """Messages at the places where frameworks and gateways put them."""
    for name, kind, status, body in (
        ("fastapi: detail", BillingError, 400, {"detail": {"error": "Insufficient credits in your account"}}),
        ("nestjs: phrase", BillingError, 400, {"error": "Bad Request", "message": "Out of credits."}),
        ("oauth: description", BillingError, 403, {"error": "denied", "error_description": "Out of credits"}),
        ("spring: list", BillingError, 403, {"errors": ["Your account balance is too low"]}),
        (
            "apigee: fault",
            AuthenticationError,
            400,
            {"fault": {"faultstring": "Invalid ApiKey for resource"}},
        ),
        ("relay: err", MaxOutputTokensError, 400, {"err": {"errmsg": "prompt is too long: 9 tokens"}}),
        ("relay: result", BillingError, 400, {"result": {"error": {"code": "insufficient_quota"}}}),
        ("relay: data", InvalidRequestError, 400, {"data": {"message": "max_tokens must be at least 1"}}),
    ):
        yield case(name, kind, status, body, is_final=kind is MaxOutputTokensError)
    refusal = "Blocked by moderation"
    refusals: tuple[Body, ...] = (
        *({"detail": {"error": refusal}}, {"detail": {"reason": refusal}}, {"errors": [refusal]}),
        *({"error": "forbidden", "error_description": refusal}, {"data": {"error": {"details": refusal}}}),
        *({"fault": {"faultstring": refusal}}, {"error": {"message": "", "metadata": {"raw": refusal}}}),
        *({"detail": {"error": {"reason": "content_filter"}}}, {"err": {"type": "moderation_blocked"}}),
    )
    for body in refusals:
        yield case(f"any: {json.dumps(body)}", ContentFilteredError, 403, body)
    spike = {
        "fault": {
            "faultstring": "Spike arrest violation. Allowed rate : MessageRate{messagesPerPeriod=5}",
            "detail": {"errorcode": "policies.ratelimit.SpikeArrestViolation"},
        }
    }
    yield case("apigee: spike", RateLimitError, 429, spike)


def _of_the_account() -> Iterator[FailedAnswer]:
    """Refusals of the whole account or of the client, under the status of one refused request."""
    for name, kind, status, body in (
        (
            "openai: verification",
            AuthenticationError,
            400,
            error(
                "Your organization must be verified to stream this model. Please go to: "
                "https://platform.openai.com/settings/organization/general and click on Verify Organization.",
                type="invalid_request_error",
                param="stream",
                code="unsupported_value",
            ),
        ),
        (
            "gemini: free tier",
            BillingError,
            400,
            google(
                "Gemini API free tier is not available in your country. Please enable billing on your "
                "project in Google AI Studio.",
                400,
                "FAILED_PRECONDITION",
            ),
        ),
        (
            "vertex: organization policy",
            AuthenticationError,
            400,
            google(
                "Organization Policy constraint constraints/vertexai.allowedModels violated for projects/p "
                "attempting to use a disallowed Gen AI model x.",
                400,
                "FAILED_PRECONDITION",
            ),
        ),
        ("bedrock: operation", AuthenticationError, 400, {"message": "Operation not allowed"}),
        (
            "bedrock: signature",
            AuthenticationError,
            400,
            {
                "__type": "IncompleteSignatureException",
                "message": "Authorization header requires 'Signature'",
            },
        ),
        (
            "copilot: client",
            AuthenticationError,
            400,
            error("bad request: missing Editor-Version header for IDE auth"),
        ),
        (
            "anthropic: long context",
            BillingError,
            400,
            anthropic(
                "invalid_request_error",
                "The long context beta is not yet available for this subscription.",
            ),
        ),
        ("any: quota 403", BillingError, 403, error("You have no quota left. Please check your balance.")),
        ("any: balance 403", BillingError, 403, error("Account balance not enough, please top up.")),
    ):
        yield case(name, kind, status, body)
    unavailable = error("The model x is not available for your account.", code="unavailable_model")
    yield case("github: model", InvalidRequestError, 400, unavailable, concerns_all_rows=True)


def _of_one_row() -> Iterator[FailedAnswer]:
    """Refusals of what one row sends or asks for, in words that also stand for the whole account."""
    for name, body in (
        ("groq: json", error("Model output was not found to be valid JSON. Please adjust your prompt.")),
        (
            "anthropic: citation",
            anthropic("invalid_request_error", "The file cited by the model is not available"),
        ),
        ("gemini: region", google("Input contains a region that is not supported", 400, "INVALID_ARGUMENT")),
        ("vllm: token", error("The prompt contains a special token that has been disabled")),
        ("openai: file", error("Access to file 'report.pdf' is restricted.", type="invalid_request_error")),
    ):
        yield case(name, InvalidRequestError, 400, body)


def _for_a_while() -> Iterator[FailedAnswer]:
    """Models that are away for a while, under statuses of refused requests."""
    for name, status, message in (
        ("gateway: model away", 404, "Model x is temporarily unavailable, please try again later."),
        ("gateway: model down", 400, "The model x is not available right now. Try again in a few minutes."),
        ("gateway: deployment away", 404, "Deployment temporarily unavailable. Please retry."),
    ):
        yield case(name, ServerError, status, error(message))


def _pictures_in_a_stream() -> Iterator[FailedAnswer]:
    """Codes of OpenAI's Responses for images that cannot be read, as the error of a stream."""
    for code, kind in (
        ("invalid_image", InvalidRequestError),
        ("image_parse_error", InvalidRequestError),
        ("image_too_large", InvalidRequestError),
        ("image_too_small", InvalidRequestError),
        ("invalid_image_format", InvalidRequestError),
        ("invalid_base64_image", InvalidRequestError),
        ("invalid_image_url", InvalidRequestError),
        ("invalid_image_mode", InvalidRequestError),
        ("image_file_too_large", InvalidRequestError),
        ("empty_image_file", InvalidRequestError),
        ("image_file_not_found", InvalidRequestError),
        ("unsupported_image_media_type", InvalidRequestError),
        ("failed_to_download_image", InvalidRequestError),
        ("image_content_policy_violation", ContentFilteredError),
        ("vector_store_timeout", ServerError),
    ):
        failed = {
            "id": "r",
            "status": "failed",
            "error": {"code": code, "message": "The image was not read."},
        }
        body = {"type": "response.failed", "response": failed}
        yield case(f"openai: {code}", kind, None, body, wire="responses")


def failed_answers() -> list[FailedAnswer]:
    """The table. Times in it are counted from now."""
    groups = (
        *(_openai, _anthropic, _google, _xai, _chinese, _openrouter, _gateways, _local, _any, _plans),
        *(_by_words_of_a_value, _aws, _relays, _long_prompts, _limits_without_a_time, _shapes),
        *(_limits_of_refusals, _addresses, _firewalls, _refused_content, _further),
        *(_of_the_account, _of_one_row, _for_a_while, _pictures_in_a_stream),
    )
    return [answer for group in groups for answer in group()]
