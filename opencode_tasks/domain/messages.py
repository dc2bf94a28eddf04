"""Messages of providers, libraries and opencode, made presentable for one line of a terminal. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, cast

LIMIT = 300
# A shorter value, such as [1] or {}, is readable.
MIN_JSON = 20
_HTML = re.compile(r"<!doctype html|<html[\s>]", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
# SQLAlchemy adds the statement, its parameters and a link to its message.
_SQL_DETAILS = re.compile(r"\s*(\[SQL:|\(Background on this error).*", re.DOTALL)
_DRIVER = re.compile(r"^\((?:\w+\.)+\w+\)\s*")
_NODE_ERROR = re.compile(r"\b(\w*Error) \[(\w+)\](: )?")
_VALIDATION = re.compile(r"(AI_\w+: )?Type validation failed: Value:\s*")
UNEXPECTED = "the provider's answer does not have the expected form"
_JSON_START = re.compile(r"[{\[]")
_MESSAGE_KEYS = ("message", "detail", "error_description", "error", "reason", "msg")


def presentable(message: str, limit: int = LIMIT) -> str:
    """The message in one line of at most ``limit`` characters, cut at a word with ``…``.

    A page of HTML becomes its title and size, a JSON object the message in it, and text of SQLAlchemy,
    of JavaScript's errors and of validation libraries loses what only their developers can read.
    """
    text = _without_html(message)
    text = _without_json(_without_validation(text))
    text = _NODE_ERROR.sub(r"opencode reports \2\3", text)
    return cut(one_line(text) or "(no message)", limit)


def one_line(text: str) -> str:
    """The text in one line, without the statement and the driver that SQLAlchemy adds to a message."""
    return " ".join(_DRIVER.sub("", _SQL_DETAILS.sub("", text)).split())


def cut(text: str, limit: int) -> str:
    """The text, or its beginning up to a word with ``…`` if it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    head = text[: limit - 1]
    before, space, _ = head.rpartition(" ")
    # A text without spaces, such as a URL, is cut within a word.
    return f"{before if space and len(before) > limit // 2 else head}…"


def _without_html(text: str) -> str:
    start = _HTML.search(text)
    if start is None:
        return text
    page = text[start.start() :]
    title = _TITLE.search(page)
    name = f" {' '.join(title[1].split())!r}" if title and title[1].strip() else ""
    return f"{text[: start.start()]}an HTML page{name} ({len(page):,} characters)"


def _without_validation(text: str) -> str:
    """The text up to a failed validation of a provider's answer, and the message in that answer."""
    start = _VALIDATION.search(text)
    if start is None:
        return text
    try:
        value, _ = json.JSONDecoder().raw_decode(text[start.end() :])
    except ValueError:
        value = None
    found = _message_in(value)
    return f"{text[: start.start()]}{UNEXPECTED}{f': {found}' if found else ''}"


def _without_json(text: str) -> str:
    """The text with a JSON value in it replaced by the message of that value."""
    for start in _JSON_START.finditer(text):
        try:
            value, length = json.JSONDecoder().raw_decode(text[start.start() :])
        except ValueError:
            continue
        found = _message_in(value) if isinstance(value, dict) else None
        if found is None and length >= MIN_JSON:
            found = f"JSON of {length:,} characters"
        if found is not None:
            return f"{text[: start.start()]}{found}{text[start.start() + length :]}"
    return text


def _message_in(value: Any) -> str | None:
    """The message of an error in JSON, however deep the usual keys lead; None if there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return next((found for item in cast("list[Any]", value) if (found := _message_in(item))), None)
    if not isinstance(value, dict):
        return None
    known = cast("dict[str, Any]", value)
    return next((found for key in _MESSAGE_KEYS if (found := _message_in(known.get(key)))), None)
