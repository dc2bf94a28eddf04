"""Classification: from opencode's structured errors to exceptions, never from keywords in stderr. Pure.

``provider_errors`` says what a provider's answer means. The rules of this module are for failures
without an answer of the provider: errors of opencode itself, and connections that fail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from http import HTTPStatus

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
from opencode_tasks.outcomes.failure import Failure
from opencode_tasks.outcomes.limit_period import is_daily, is_daily_at_google, limit_period
from opencode_tasks.outcomes.provider_answer import ProviderAnswer
from opencode_tasks.outcomes.provider_errors import Rule, find_rule
from opencode_tasks.outcomes.provider_words import NO_LOGIN, NO_REFRESH_NOW
from opencode_tasks.outcomes.reset_time import MAX_S, named_wait_s, usable_wait_s

DEFAULT_RATE_LIMIT_WAIT_S = 60.0
DAY_S = 86_400.0
# A failed connection, and what a gateway answers while the provider behind it is away.
UNAVAILABLE = frozenset({0, 502, 503, 504, 529})
REFUSED_BY_OPENCODE = re.compile(
    r"^(Model|Agent|Provider) not found|^Invalid config|ConfigInvalid", re.IGNORECASE
)
CONNECTION_LOST = re.compile(
    r"socket connection was closed|unable to connect|ECONNRE(FUSED|SET)|connection (refused|reset)|terminated"
    r"|timed out|network error|was there a typo in the url",
    re.IGNORECASE,
)
CONFIG_ERRORS = frozenset(
    {"ConfigInvalidError", "ConfigJsonError", "ProviderModelNotFoundError", "ProviderInitError"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Fields of an exception beside the failure.

    Attributes:
        node_id: Node that processed the row.
        now: Time of the classification (aware UTC).
        exit_code: Exit code of opencode; -1 if no process ended.
        stderr: Text that opencode wrote to stderr.
        partial_text: Text that arrived before the failure.
        prompt: Prompt of the row; words of a message that occur in it do not count.
    """

    node_id: str
    now: datetime
    exit_code: int = -1
    stderr: str = ""
    partial_text: str = ""
    prompt: str = ""


def classify(failure: Failure, context: Context) -> OpenCodeError:
    """The exception for a failure: the first rule that matches decides."""
    if failure.name == "ProviderAuthError":
        return AuthenticationError(context.node_id, context.exit_code, _message(failure))
    answer = _answer_in(failure, context.prompt)
    rule = find_rule(answer) if answer is not None else None
    if answer is not None and rule is not None:
        return _error_of(rule, answer, context)
    return _without_answer(failure, context)


def _answer_in(failure: Failure, prompt: str) -> ProviderAnswer | None:
    """The provider's answer in a failure; None if there is none."""
    if failure.is_exact or failure.status is not None:
        return ProviderAnswer(failure, prompt)
    # Without the plugin, opencode gives the event of a stream's error as a body.
    if failure.body:
        return ProviderAnswer(replace(failure, in_stream=True), prompt)
    return None


def _error_of(rule: Rule, answer: ProviderAnswer, context: Context) -> OpenCodeError:
    failure = answer.failure
    node, code, message = context.node_id, context.exit_code, _message(failure)
    message = f"{message} ({rule.note})" if rule.note else message
    match rule.kind:
        case "authentication_failed":
            return AuthenticationError(node, code, message)
        case "billing_error":
            return _billing(rule, answer, message, context)
        case "rate_limit":
            return _rate_limit(answer, message, context)
        case "invalid_request":
            refused = InvalidRequestError(node, code, message)
            refused.concerns_all_rows = rule.concerns_all_rows
            return refused
        case "context_overflow":
            overflow = MaxOutputTokensError(node, code, message, context.partial_text)
            overflow.max_attempts = 1
            return overflow
        case "content_filter":
            return ContentFilteredError(node, code, message, context.partial_text)
        case "server_error":
            return _server_error(failure, message, context, is_overload=rule.is_overload)


def is_before_request(failure: Failure) -> bool:
    """Whether a failure without a status is one of opencode itself that comes before any request."""
    if failure.name in ("ProviderAuthError", "ContextOverflowError", *CONFIG_ERRORS):
        return True
    found = (REFUSED_BY_OPENCODE, NO_LOGIN, NO_REFRESH_NOW)
    return any(words.search(failure.message) for words in found)


def _without_answer(failure: Failure, context: Context) -> OpenCodeError:
    """The exception for an error of opencode itself."""
    node, code, message = context.node_id, context.exit_code, _message(failure)
    if failure.name == "ContextOverflowError":
        overflow = MaxOutputTokensError(node, code, message, context.partial_text)
        overflow.max_attempts = 1
        return overflow
    if failure.name == "MessageOutputLengthError":
        return MaxOutputTokensError(node, code, message, context.partial_text)
    if failure.name == "ContentFilterError":
        return ContentFilteredError(node, code, message, context.partial_text)
    if NO_REFRESH_NOW.search(failure.message):
        return _server_error(failure, message, context, is_overload=False)
    if NO_LOGIN.search(failure.message):
        return AuthenticationError(node, code, message)
    if failure.is_retryable or CONNECTION_LOST.search(failure.message):
        return _server_error(failure, message, context, is_overload=False)
    if failure.name in ("APIError", *CONFIG_ERRORS) or REFUSED_BY_OPENCODE.search(failure.message):
        refused = InvalidRequestError(node, code, message)
        refused.concerns_all_rows = failure.name != "APIError"
        return refused
    return UnknownOpenCodeError(node, code, message, context.stderr)


def _rate_limit(answer: ProviderAnswer, message: str, context: Context) -> RateLimitError:
    failure = answer.failure
    # The provider counts from its answer, which opencode reports about a second later.
    answered_at = min(failure.at or context.now, context.now)
    named = named_wait_s(failure.headers, failure.body, answered_at, context.prompt)
    period = limit_period(answer)
    if (named is None and period is not None) or (named is not None and is_daily_at_google(answer)):
        assert period is not None
        named = max(named or 0.0, period.wait_s(answered_at))
        message = f"{message} (no time is named; {period.what})"
    wait = DEFAULT_RATE_LIMIT_WAIT_S if named is None else usable_wait_s(named)
    if named is not None and named > MAX_S:
        message = f"{message} (the provider named a wait of {named / DAY_S:,.0f} days; one day is used)"
    limited = RateLimitError(
        context.node_id, answered_at + timedelta(seconds=wait), message, context.exit_code
    )
    limited.reset_is_named = named is not None
    return limited


def _billing(rule: Rule, answer: ProviderAnswer, message: str, context: Context) -> OpenCodeError:
    """A spending limit that ends at a stated time or with the day, or an account that needs a person."""
    failure = answer.failure
    answered_at = min(failure.at or context.now, context.now)
    named = named_wait_s({}, failure.body, answered_at, context.prompt)
    is_stated = named is not None and 0 < named <= MAX_S
    if rule.may_end and (is_stated or (named is None and is_daily(answer))):
        return _rate_limit(replace(answer, failure=replace(failure, headers={})), message, context)
    return BillingError(context.node_id, context.exit_code, message)


def _server_error(failure: Failure, message: str, context: Context, *, is_overload: bool) -> ServerError:
    named = named_wait_s(failure.headers, failure.body, context.now, context.prompt)
    wait = None if named is None else usable_wait_s(named)
    broken = ServerError(context.node_id, context.exit_code, message, wait)
    broken.is_overload = is_overload
    broken.is_unavailable = is_overload or failure.in_stream or failure.status in UNAVAILABLE
    return broken


def _message(failure: Failure) -> str:
    phrase = _phrase(failure.status)
    # opencode writes the status phrase before a body that it cannot parse.
    text = body_message(failure.body) or failure.message.removeprefix(f"{phrase}: ") or failure.body
    message = error_message(text, is_internal=not failure.status) or phrase
    message = message or f"opencode reported {failure.name} without a message"
    return f"HTTP {failure.status}: {message}" if failure.status and not failure.in_stream else message


def _phrase(status: int | None) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else ""


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
