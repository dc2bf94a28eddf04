"""From opencode's structured errors to our exceptions; never from keywords in stderr.

The rules and their order are those of docs/reference/errors.md. Where the plugin made a failure
final, the provider's own status, headers and body stand in ``x-upstream-*`` response headers and
count instead of opencode's (see ``opencode/plugin/opencode-tasks.js``).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from opencode_tasks.errors import (
    AuthenticationError,
    BillingError,
    ContentFilterError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    UnknownOpenCodeError,
)
from opencode_tasks.retry_after import retry_after_s

DEFAULT_RATE_LIMIT_WAIT_S = 60.0
# The AI SDK retries these although they are below 500.
RETRIED_STATUSES = frozenset({408, 409})
BILLING_WORDS = re.compile(r"\b(billing|payments?|credits?|subscriptions?)\b", re.IGNORECASE)
REFUSED_BY_OPENCODE = re.compile(r"^(Model|Agent|Provider) not found|^Invalid config|ConfigInvalid", re.IGNORECASE)
CONNECTION_LOST = re.compile(
    r"socket connection was closed|unable to connect|ECONNRE(FUSED|SET)|connection (refused|reset)|terminated"
    r"|timed out|network error",
    re.IGNORECASE,
)
CONFIG_ERRORS = frozenset({"ConfigInvalidError", "ConfigJsonError", "ProviderModelNotFoundError", "ProviderInitError"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One structured error, the provider's own words in place where they are known.

    ``status`` is the provider's HTTP status: None where opencode names none, 0 where the
    connection failed before there was one. ``reason`` says why, for a failed connection.
    """

    name: str
    message: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: str = ""
    is_retryable: bool = False
    reason: str = ""


def read_failure(error: Mapping[str, Any]) -> Failure:
    """The failure in an opencode error ``{"name": …, "data": …}``."""
    data: Mapping[str, Any] = error.get("data") or {}
    headers = {str(k).lower(): str(v) for k, v in (data.get("responseHeaders") or {}).items()}
    name, message = str(error.get("name") or "UnknownError"), str(data.get("message") or error.get("message") or "")
    if "x-upstream-status" in headers:
        return _upstream(name, headers)
    status = data.get("statusCode")
    return Failure(
        name=name,
        message=message,
        status=status if isinstance(status, int) else None,
        headers=headers,
        body=str(data.get("responseBody") or ""),
        is_retryable=data.get("isRetryable") is True,
    )


def classify(
    failure: Failure, *, node_id: str, now: datetime, exit_code: int = -1, stderr: str = "", partial_text: str = ""
) -> OpenCodeError:
    """The exception that a failure is; the first rule that fits wins."""
    words = _words(failure)
    if failure.name == "ProviderAuthError" or failure.status in (401, 403):
        return AuthenticationError(node_id, exit_code, words)
    if failure.status == 402 or _has_code(failure.body, "insufficient_quota"):
        return BillingError(node_id, exit_code, words)
    if failure.status == 429:
        wait = retry_after_s(failure.headers, failure.body, now)
        reset = now + timedelta(seconds=DEFAULT_RATE_LIMIT_WAIT_S if wait is None else wait)
        return RateLimitError(node_id, reset, words, exit_code)
    if failure.name in ("ContextOverflowError", "MessageOutputLengthError"):
        return MaxOutputTokensError(node_id, exit_code, words, partial_text)
    if failure.name == "ContentFilterError":
        return ContentFilterError(node_id, exit_code, words, partial_text)
    if _is_servers(failure):
        return ServerError(node_id, exit_code, words, retry_after_s(failure.headers, failure.body, now))
    if failure.name == "APIError" and BILLING_WORDS.search(failure.message):
        return BillingError(node_id, exit_code, words)
    if failure.name == "APIError" or failure.name in CONFIG_ERRORS or REFUSED_BY_OPENCODE.search(failure.message):
        return InvalidRequestError(node_id, exit_code, words)
    return UnknownOpenCodeError(node_id, exit_code, words, stderr)


def classify_finish(
    finish_reason: str | None, *, node_id: str, exit_code: int = -1, partial_text: str = ""
) -> OpenCodeError | None:
    """The exception of an answer that ended badly without an error; None where it ended well."""
    if finish_reason == "length":
        message = "the answer was cut at the model's output token limit"
        return MaxOutputTokensError(node_id, exit_code, message, partial_text)
    if finish_reason == "content-filter":
        message = "the provider's content filter stopped the answer"
        return ContentFilterError(node_id, exit_code, message, partial_text)
    if finish_reason in ("error", "unknown", "other"):
        message = f"the provider's stream ended without a finish reason ({finish_reason})"
        return ServerError(node_id, exit_code, message)
    return None


def _upstream(name: str, headers: Mapping[str, str]) -> Failure:
    status = int(headers["x-upstream-status"])
    body = _decode(headers.get("x-upstream-body", ""))
    upstream: dict[str, str] = json.loads(_decode(headers.get("x-upstream-headers", "")) or "{}")
    reason = _decode(headers.get("x-upstream-reason", ""))
    message = _message_in(body) or reason
    return Failure(name=name, message=message, status=status, headers=upstream, body=body, reason=reason)


def _is_servers(failure: Failure) -> bool:
    if failure.is_retryable or failure.status in RETRIED_STATUSES:
        return True
    if failure.status is not None:
        return failure.status >= 500 or failure.status == 0
    return failure.name != "APIError" and CONNECTION_LOST.search(failure.message) is not None


def _words(failure: Failure) -> str:
    message = failure.message or failure.body.strip()[:500] or _phrase(failure.status) or failure.name
    return f"HTTP {failure.status}: {message}" if failure.status else message


def _phrase(status: int | None) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else ""


def _has_code(body: str, code: str) -> bool:
    return re.search(rf'"{re.escape(code)}"', body) is not None


def _message_in(body: str) -> str:
    try:
        data: Any = json.loads(body)
    except ValueError:
        return ""
    if isinstance(data, list) and data:
        data = data[0]
    error: Any = data.get("error", data) if isinstance(data, Mapping) else None
    message: Any = error.get("message") if isinstance(error, Mapping) else error
    return message if isinstance(message, str) else ""


def _decode(text: str) -> str:
    try:
        return base64.b64decode(text).decode("utf-8", errors="replace")
    except (binascii.Error, ValueError):
        return ""
