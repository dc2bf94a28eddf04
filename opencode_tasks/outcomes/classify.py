"""Classification: from opencode's structured errors to exceptions, never from keywords in stderr. Pure.

The first rule that matches decides; ``docs/reference/errors.md`` lists the rules. If the plugin reported a
failure, the provider's status, headers, body and time of the answer are in ``x-upstream-*`` response
headers and are used instead of opencode's (see ``opencode/plugin/opencode-tasks.js``).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.errors import (
    AuthenticationError,
    BillingError,
    ContentFilteredError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    UnknownOpenCodeError,
)
from opencode_tasks.outcomes.error_message import body_message, error_message
from opencode_tasks.outcomes.retry_after import retry_after_s

DEFAULT_RATE_LIMIT_WAIT_S = 60.0
# The AI SDK retries these although they are below 500.
OVERLOADED_STATUS = 529
RETRIED_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT})
REFUSED_CREDENTIALS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
BILLING_WORDS = re.compile(r"\b(billing|payments?|credits?|subscriptions?)\b", re.IGNORECASE)
REFUSED_BY_OPENCODE = re.compile(
    r"^(Model|Agent|Provider) not found|^Invalid config|ConfigInvalid", re.IGNORECASE
)
CONNECTION_LOST = re.compile(
    r"socket connection was closed|unable to connect|ECONNRE(FUSED|SET)|connection (refused|reset)|terminated"
    r"|timed out|network error",
    re.IGNORECASE,
)
CONFIG_ERRORS = frozenset(
    {"ConfigInvalidError", "ConfigJsonError", "ProviderModelNotFoundError", "ProviderInitError"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A structured error of opencode, with the provider's message if it is known.

    ``status`` is the provider's HTTP status: None if opencode reports none, 0 if the connection failed
    before there was an answer. ``reason`` is the cause of a failed connection. ``at`` is the time of the
    provider's answer (aware UTC); None if it is unknown.
    """

    name: str
    message: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: str = ""
    is_retryable: bool = False
    reason: str = ""
    at: datetime | None = None


def read_failure(error: Mapping[str, Any]) -> Failure:
    """The failure in an opencode error ``{"name": …, "data": …}``. Malformed fields are ignored."""
    data = mapping_in(error.get("data"))
    headers = {key.lower(): str(value) for key, value in mapping_in(data.get("responseHeaders")).items()}
    name = str(error.get("name") or "UnknownError")
    upstream_status = _whole_number(headers.get("x-upstream-status"))
    if upstream_status is not None:
        return _upstream(name, upstream_status, headers)
    return Failure(
        name=name,
        message=str(data.get("message") or error.get("message") or ""),
        status=_whole_number(data.get("statusCode")),
        headers=headers,
        body=str(data.get("responseBody") or ""),
        is_retryable=data.get("isRetryable") is True,
    )


def classify(
    failure: Failure,
    *,
    node_id: str,
    now: datetime,
    exit_code: int = -1,
    stderr: str = "",
    partial_text: str = "",
) -> OpenCodeError:
    """The exception for a failure: the first rule that matches decides."""
    message = _message(failure)
    if failure.name == "ProviderAuthError" or failure.status in REFUSED_CREDENTIALS:
        return AuthenticationError(node_id, exit_code, message)
    if failure.status == HTTPStatus.PAYMENT_REQUIRED or _has_code(failure.body, "insufficient_quota"):
        return BillingError(node_id, exit_code, message)
    if failure.status == HTTPStatus.TOO_MANY_REQUESTS:
        # The provider counts from its answer, which opencode reports about a second later.
        answered_at = min(failure.at or now, now)
        wait = retry_after_s(failure.headers, failure.body, answered_at)
        reset = answered_at + timedelta(seconds=DEFAULT_RATE_LIMIT_WAIT_S if wait is None else wait)
        limited = RateLimitError(node_id, reset, message, exit_code)
        limited.reset_is_named = wait is not None
        return limited
    if failure.name in ("ContextOverflowError", "MessageOutputLengthError"):
        return MaxOutputTokensError(node_id, exit_code, message, partial_text)
    if failure.name == "ContentFilterError":
        return ContentFilteredError(node_id, exit_code, message, partial_text)
    if _is_server_error(failure):
        broken = ServerError(node_id, exit_code, message, retry_after_s(failure.headers, failure.body, now))
        broken.is_overload = failure.status == OVERLOADED_STATUS or (
            failure.status == HTTPStatus.SERVICE_UNAVAILABLE and "overloaded" in message.lower()
        )
        return broken
    if failure.name == "APIError" and BILLING_WORDS.search(failure.message):
        return BillingError(node_id, exit_code, message)
    if failure.name in ("APIError", *CONFIG_ERRORS) or REFUSED_BY_OPENCODE.search(failure.message):
        return InvalidRequestError(node_id, exit_code, message)
    return UnknownOpenCodeError(node_id, exit_code, message, stderr)


def classify_finish(
    finish_reason: str | None, *, node_id: str, exit_code: int = -1, partial_text: str = ""
) -> OpenCodeError | None:
    """The exception for an answer that ended abnormally without an error; None if it ended normally."""
    if finish_reason == "length":
        message = "the answer was cut at the model's output token limit"
        return MaxOutputTokensError(node_id, exit_code, message, partial_text)
    if finish_reason == "content-filter":
        message = "the provider's content filter stopped the answer"
        return ContentFilteredError(node_id, exit_code, message, partial_text)
    if finish_reason in ("error", "unknown", "other"):
        message = f"the answer ended without a finish reason that opencode knows ({finish_reason})"
        return ServerError(node_id, exit_code, message)
    return None


def _upstream(name: str, status: int, headers: Mapping[str, str]) -> Failure:
    body = _decode(headers.get("x-upstream-body", ""))
    sent = mapping_in(_parsed(_decode(headers.get("x-upstream-headers", ""))))
    upstream = {key: str(value) for key, value in sent.items()}
    reason = _decode(headers.get("x-upstream-reason", ""))
    return Failure(
        name=name,
        message=body_message(body) or reason,
        status=status,
        headers=upstream,
        body=body,
        reason=reason,
        at=_time(headers.get("x-upstream-at")),
    )


def _is_server_error(failure: Failure) -> bool:
    if failure.is_retryable or failure.status in RETRIED_STATUSES:
        return True
    if failure.status is not None:
        return failure.status >= HTTPStatus.INTERNAL_SERVER_ERROR or failure.status == 0
    return failure.name != "APIError" and CONNECTION_LOST.search(failure.message) is not None


def _message(failure: Failure) -> str:
    phrase = _phrase(failure.status)
    # opencode writes the status phrase before a body that it cannot parse.
    text = body_message(failure.body) or failure.message.removeprefix(f"{phrase}: ") or failure.body
    message = error_message(text, is_internal=not failure.status) or phrase
    message = message or f"opencode reported {failure.name} without a message"
    return f"HTTP {failure.status}: {message}" if failure.status else message


def _phrase(status: int | None) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else ""


def _has_code(body: str, code: str) -> bool:
    return re.search(rf'"{re.escape(code)}"', body) is not None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[0-9]{1,3}", value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(milliseconds: str | None) -> datetime | None:
    """The aware time of milliseconds since 1970; None for any other text."""
    if milliseconds is None or not re.fullmatch(r"[0-9]{1,14}", milliseconds):
        return None
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)


def _decode(text: str) -> str:
    try:
        return base64.b64decode(text).decode("utf-8", errors="replace")
    except (binascii.Error, ValueError):
        return ""
