"""A failure as opencode reports it, with the provider's own answer if it is known. Pure.

The plugin passes each failed answer of a provider on without a change: in ``x-upstream-*`` headers of
opencode's error, or, for an error inside a stream, in the error's message (see
``opencode/plugin/failure.js``).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.outcomes.error_message import body_message

HEX_DIGITS, LETTERS = "0123456789abcdef", "abcdefghijklmnop"
STREAM_ERROR = re.compile(r"opencode-tasks-failure:((?:[a-p]{2})+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A structured error of opencode, with the provider's answer if it is known.

    Attributes:
        name: Name of opencode's error.
        message: The provider's message, else opencode's.
        status: The provider's HTTP status: None if opencode reports none, 0 if the connection failed
            before there was an answer. An error inside a stream has the status of the response, 200.
        headers: The provider's headers, with names in lower case.
        body: The provider's body; inside a stream, its error event.
        is_retryable: Whether opencode would repeat the request.
        reason: Cause of a failed connection; "" if it did not fail.
        at: Time of the provider's answer (aware UTC); None if it is unknown.
        in_stream: Whether the answer began with status 200 and failed later.
        has_output: Whether the provider had sent output, which it may charge.
        is_exact: Whether the provider's answer is known, not only opencode's account of it.
    """

    name: str
    message: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: str = ""
    is_retryable: bool = False
    reason: str = ""
    at: datetime | None = None
    in_stream: bool = False
    has_output: bool = False
    is_exact: bool = False


def read_failure(error: Mapping[str, Any]) -> Failure:
    """The failure in an opencode error ``{"name": …, "data": …}``. Malformed fields are ignored."""
    data = mapping_in(error.get("data"))
    headers = {key.lower(): str(value) for key, value in mapping_in(data.get("responseHeaders")).items()}
    name = str(error.get("name") or "UnknownError")
    message = str(data.get("message") or error.get("message") or "")
    if found := STREAM_ERROR.search(message):
        return _of_stream(name, found[1])
    status = _whole_number(headers.get("x-upstream-status"))
    if status is not None:
        return _of_response(name, status, headers)
    return Failure(
        name=name,
        message=message,
        status=_whole_number(data.get("statusCode")),
        headers=headers,
        body=str(data.get("responseBody") or ""),
        is_retryable=data.get("isRetryable") is True,
    )


def text_of_letters(letters: str) -> str:
    """The text that the message of a stream's error encodes: each half of a byte is a letter from a to p."""
    digits = letters.translate(str.maketrans(LETTERS, HEX_DIGITS))
    return bytes.fromhex(digits).decode("utf-8", errors="replace")


def letters_of_text(text: str) -> str:
    """A text as the message of a stream's error encodes it."""
    return text.encode("utf-8", errors="replace").hex().translate(str.maketrans(HEX_DIGITS, LETTERS))


def _of_response(name: str, status: int, headers: Mapping[str, str]) -> Failure:
    return _exact(
        name,
        status=status,
        headers=mapping_in(_parsed(_decode(headers.get("x-upstream-headers", "")))),
        body=_decode(headers.get("x-upstream-body", "")),
        reason=_decode(headers.get("x-upstream-reason", "")),
        at=_time(headers.get("x-upstream-at")),
        in_stream=headers.get("x-upstream-in-stream") == "1",
        has_output=headers.get("x-upstream-has-output") == "1",
    )


def _of_stream(name: str, letters: str) -> Failure:
    """The failure in the message of a stream's error."""
    given = mapping_in(_parsed(text_of_letters(letters)))
    return _exact(
        name,
        status=_whole_number(given.get("status")) or 0,
        headers=mapping_in(given.get("headers")),
        body=str(given.get("body") or ""),
        reason=str(given.get("reason") or ""),
        at=_time(str(given.get("at"))),
        in_stream=given.get("inStream") is True,
        has_output=given.get("hasOutput") is True,
    )


def _exact(name: str, *, headers: Mapping[str, Any], body: str, reason: str, **more: Any) -> Failure:
    return Failure(
        name=name,
        message=body_message(body) or reason,
        headers={key.lower(): str(value) for key, value in headers.items()},
        body=body,
        reason=reason,
        is_exact=True,
        **more,
    )


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
