"""Replacement of known secrets in everything that opencode reports. Pure.

A provider can repeat the API key in its error message, and opencode passes that on: in messages, in
events, and in what it prints. ``SecretMask`` is applied to each result before anything reads it, so that
no column, ledger, trace or log can contain a known key.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html.entities import html5
from typing import Any, cast

from opencode_tasks.domain.records import InnerRetry, Session
from opencode_tasks.outcomes.backend_result import SessionResult, Stopped
from opencode_tasks.outcomes.failure import STREAM_ERROR, letters_of_text, text_of_letters

MASK = "[secret]"
# A shorter value can be a common word, which must stay in answers.
MIN_LENGTH = 8
# The plugin passes on what the provider answered in headers with this prefix, mostly in base64.
ENCODED_PREFIX = "x-upstream-"


class SecretMask:
    """Replaces these secrets by ``[secret]``. Values with fewer than ``MIN_LENGTH`` characters stay."""

    def __init__(self, secrets: Iterable[str]) -> None:
        longest_first = sorted(
            {one for one in secrets if len(one) >= MIN_LENGTH}, key=lambda one: (-len(one), one)
        )
        self._pattern = re.compile("|".join(map(_forms, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """The text without the secrets."""
        if self._pattern is None:
            return text
        return STREAM_ERROR.sub(self._stream_error, self._pattern.sub(MASK, text))

    def _stream_error(self, found: re.Match[str]) -> str:
        decoded = text_of_letters(found[1])
        masked = self.text(decoded)
        if masked == decoded:
            return found[0]
        return found[0].removesuffix(found[1]) + letters_of_text(masked)

    def json(self, value: Any) -> Any:
        """A JSON value without the secrets, at any depth."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            members = cast("Mapping[str, Any]", value).items()
            return {self.text(key): self._member(key, member) for key, member in members}
        if isinstance(value, list | tuple):
            return [self.json(item) for item in cast("Sequence[Any]", value)]
        return value

    def sessions(self, sessions: Iterable[Session]) -> list[Session]:
        """The sessions with masked messages. Steps hold no text of the provider."""
        return [replace(session, messages=self.json(list(session.messages))) for session in sessions]

    def result(self, result: SessionResult) -> SessionResult:
        """The result of a backend without the secrets in any of its texts."""
        if self._pattern is None:
            return result
        return replace(
            result,
            sessions=self.sessions(result.sessions),
            error=self.json(result.error),
            fault=self.text(result.fault),
            stopped=result.stopped and self._stopped(result.stopped),
            inner_retries=[self._retry(retry) for retry in result.inner_retries],
            stream_text=self.text(result.stream_text),
            stderr=self.text(result.stderr),
            events=self.json(list(result.events)),
            notes=tuple(map(self.text, result.notes)),
        )

    def _member(self, key: str, value: Any) -> Any:
        if isinstance(value, str) and key.lower().startswith(ENCODED_PREFIX):
            return self._encoded(value)
        return self.json(value)

    def _encoded(self, value: str) -> str:
        """A text in base64, or as it is, without the secrets in what it encodes."""
        try:
            decoded = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            return self.text(value)
        masked = self.text(decoded)
        return self.text(value) if masked == decoded else base64.b64encode(masked.encode()).decode()

    def _stopped(self, stopped: Stopped) -> Stopped:
        return replace(stopped, wait=self._retry(stopped.wait)) if stopped.wait is not None else stopped

    def _retry(self, retry: InnerRetry) -> InnerRetry:
        return replace(retry, message=self.text(retry.message))


def _forms(secret: str) -> str:
    r"""A pattern of the secret as text and inside of JSON, HTML and URLs, also one in another.

    A provider escapes what it repeats by rules of its own: ``\/``, ``\u002f``, ``&#47;``, ``%2F``.
    """
    return "".join(char if char.isalnum() and char.isascii() else _forms_of(char) for char in secret)


def _forms_of(char: str) -> str:
    escape = json.dumps(char)[1:-1].removeprefix("\\")
    units = char.encode("utf-16-be")
    in_json = "".join(rf"\\+u(?i:{units[at : at + 2].hex()})" for at in range(0, len(units), 2))
    in_url = "".join(f"%(?:25)*(?i:{byte:02x})" for byte in char.encode())
    names = "|".join(name for name, text in html5.items() if text == char and name.endswith(";"))
    named = f"|(?:{names})" if names else ""
    in_html = rf"&(?:amp;)*(?:#0*{ord(char)};|#(?i:x0*{ord(char):x});{named})"
    return rf"(?:\\*{re.escape(char)}|\\+{re.escape(escape)}|{in_json}|{in_url}|{in_html})"
