"""The message of a failed row: a sentence for people, made from what a provider or opencode reported.

A sentence of the provider stays as it is. Raw material is replaced: HTML pages by their title, JSON by the
message in it, exceptions of opencode's runtime by a sentence. The raw text stays in the session's record.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.domain.text import shorten

MESSAGE_LIMIT = 1_000
# Only the beginning of a longer text is read.
READ_LIMIT = 20_000
TITLE_LIMIT = 100
# A JSON value up to this length may be part of a sentence, such as a small schema.
MAX_QUOTED_JSON = 60
MAX_FIELDS = 5
# Messages inside messages: a gateway quotes the JSON of the provider behind it.
MAX_DEPTH = 3

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")

_PAGE = re.compile(r"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>|<h1[^>]*>(.*?)</h1>", re.IGNORECASE | re.DOTALL)
_HIDDEN = re.compile(r"<(script|style)\b.*?</\1>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_XML = re.compile(r"^<(?:\?xml\b|Error\b)", re.IGNORECASE)
_XML_MESSAGE = re.compile(r"<message>(.*?)</message>", re.IGNORECASE | re.DOTALL)

_JSON_START = re.compile(r"[{\[]")
# The beginning of a JSON object or array, complete or cut short.
_JSON_TEXT = re.compile(r'[{\[]\s*["{\[\]}]')
_JSON_MESSAGE = re.compile(r'"message"\s*:\s*("(?:[^"\\]|\\.)*")')
_STREAM_PREFIX = re.compile(r"^(?:event:\s*\S+\s+)?data:\s*")
_MESSAGE_KEYS = ("message", "detail", "msg", "error_description", "Message", "error_msg", "title")

# Of any other shape: names of fields with a text about the error, without separators and in lower case, and
# names of fields with what the client sent or the model said.
_MESSAGE_KEY = re.compile(
    r"(?:err|errors?|(?:message|msg|detail|reason|fault|description|exception|cause)s?|faultstring|title)$|^raw$"
)
_TEXT_KEYS = frozenset({"text", "value", "raw"})
_OTHER_KEY = re.compile(
    r"^(?:messages|contents?|body|payload|query|text|documents?|functions?|arguments|choices|candidates"
    r"|outputs?)$"
    r"|(?:inputs?|prompts?|requests?|requestbody|params?|parameters|generation|completion|schema|tools?"
    r"|finishreason|stopreason)$"
)
_STATUS_PHRASES = frozenset(status.phrase.lower() for status in HTTPStatus)
SEARCH_DEPTH = 6

# The AI SDK's error for an answer that it cannot parse, followed by a list of validation faults.
_UNREADABLE = re.compile(
    r"^(?:AI_\w+: )?(?:Type validation failed: Value|JSON parsing failed: Text): (.*?)\.?\s*"
    r"(?:\nError message: .*)?$",
    re.DOTALL,
)
# JavaScript's text of an exception: ``TypeError [ERR_INVALID_STATE]: Invalid state``.
_EXCEPTION = re.compile(r"^(?P<name>[A-Za-z_]*(?:Error|Exception))(?: \[\w+\])?: (?P<text>.+)$", re.DOTALL)
_BROKEN = "ECONNRESET|EPIPE|ERR_INVALID_STATE|ERR_STREAM_|socket connection was closed|socket hang up"
_CONNECTION_FAULTS = (
    (
        "ECONNREFUSED|ConnectionRefused|Unable to connect. Is the computer|Was there a typo in the url",
        "cannot connect to the provider",
    ),
    (f"{_BROKEN}|^(TypeError: )?terminated$", "the connection to the provider broke"),
    ("ETIMEDOUT|The operation timed out", "the provider did not answer in time"),
    ("ENOTFOUND|EAI_AGAIN|getaddrinfo|FailedToOpenSocket", "the provider's host name cannot be resolved"),
)


def error_message(text: str, *, is_internal: bool = False) -> str:
    """Return a message for people of at most 1,000 characters, on one line; "" for an empty text.

    Args:
        text: A provider's body, or opencode's message, which may quote one.
        is_internal: Whether the text may come from opencode's runtime rather than from the provider, so
            that exceptions in it are replaced too.
    """
    cleaned = _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", text[:READ_LIMIT])).strip()
    message = _plain(cleaned, MAX_DEPTH)
    if is_internal:
        message = _without_exception(message)
    lines = (line.strip() for line in message.splitlines())
    return shorten(" ".join(filter(None, lines)), MESSAGE_LIMIT)


def body_message(body: str) -> str:
    """Return the provider's message in the JSON body of an answer; "" if there is none."""
    return _message_in(_parsed(body))


def is_page(body: str) -> bool:
    """Whether the body of an answer is an HTML page."""
    return _JSON_TEXT.match(body) is None and _PAGE.search(body[:READ_LIMIT]) is not None


def _plain(text: str, depth: int) -> str:
    """The text with everything replaced that is not for people."""
    text = _STREAM_PREFIX.sub("", text)
    is_json = _JSON_TEXT.match(text) is not None
    if depth and (unreadable := _UNREADABLE.match(text)):
        return _unreadable(unreadable[1], depth - 1)
    if _XML.match(text):
        found = _XML_MESSAGE.search(text)
        return html.unescape(found[1]).strip() if found else f"XML document ({len(text):,} characters)"
    if (page := _PAGE.search(text)) and not is_json:
        return text[: page.start()] + _page(text[page.start() :])
    if depth == 0:
        return "JSON without a message" if is_json else text
    return _without_json(text, depth - 1)


def _unreadable(value: str, depth: int) -> str:
    """The message in an answer that the AI SDK cannot read, else what kind of answer it is."""
    if found := body_message(value):
        return _plain(found, depth)
    kind = "JSON of an unknown form" if _parsed(value) is not None else _plain(value, depth)
    return f"the provider's answer cannot be read: {kind}"


def _page(page: str) -> str:
    """An HTML page by its title, else by its first words, and its size."""
    found = _TITLE.search(page)
    text = (found[1] or found[2] or "") if found else _HIDDEN.sub(" ", page)
    title = " ".join(html.unescape(_TAG.sub(" ", text)).split())
    size = (
        f"{len(page):,} characters"
        if "</html>" in page[-40:].lower()
        else f"{len(page):,} or more characters"
    )
    named = f' "{shorten(title, TITLE_LIMIT)}"' if title else ""
    return f"HTML page{named} instead of an answer ({size})"


def _without_json(text: str, depth: int) -> str:
    """The text with each JSON object in it replaced by its message, or by the names of its fields."""
    parts: list[str] = []
    position = 0
    for found in _JSON_START.finditer(text):
        start = found.start()
        if start < position:
            continue
        try:
            value, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            if start == 0:
                return _broken_json(text)
            continue
        replacement = _replacement(value, text[start:end], depth, is_quoted=bool(text[:start].strip()))
        parts += [text[position:start], replacement]
        position = end
    return "".join(parts) + text[position:]


def _replacement(value: Any, quoted: str, depth: int, *, is_quoted: bool) -> str:
    if message := _message_in(value):
        return _plain(message, depth)
    has_fields = bool(_fields(value))
    if (is_quoted and len(quoted) <= MAX_QUOTED_JSON) or not (has_fields or value == {}):
        return quoted
    return _described(value)


def _broken_json(text: str) -> str:
    """The message in JSON that is cut short, else its size; the text itself if it is no JSON."""
    if not _JSON_TEXT.match(text):
        return text
    if found := _JSON_MESSAGE.search(text):
        return str(_parsed(found[1]) or "").strip()
    return f"broken JSON ({len(text):,} characters)"


def _described(value: Any) -> str:
    """JSON without a message, by the names of its fields."""
    fields = _fields(value)
    if not fields:
        return "JSON without a message"
    names = ", ".join(fields[:MAX_FIELDS]) + (", …" if len(fields) > MAX_FIELDS else "")
    return shorten(f"JSON without a message (fields: {names})", 2 * TITLE_LIMIT)


def _fields(value: Any) -> list[str]:
    return list(mapping_in(next(iter(list_in(value)), value)))


def _message_in(value: Any) -> str:
    """The message of an error in JSON; "" without one. A sentence comes before a word such as "forbidden"."""
    known = _known_message(value)
    if _is_sentence(known):
        return known
    others = sorted(_texts(value, SEARCH_DEPTH), key=len, reverse=True)
    return next(filter(_is_sentence, others), known or next(iter(others), ""))


def _is_sentence(text: str) -> bool:
    """Whether a text says more than a word or the phrase of a status; Chinese has no spaces."""
    return (" " in text or not text.isascii()) and text.lower() not in _STATUS_PHRASES


def _texts(value: Any, depth: int, *, is_message: bool = False) -> Iterator[str]:
    """The texts under keys that are about an error, at any place but that of the client's request."""
    if isinstance(value, str):
        yield from filter(None, [value.strip()] if is_message else [])
    if depth == 0:
        return
    for item in list_in(value):
        yield from _texts(item, depth - 1, is_message=is_message)
    for key, inner in mapping_in(value).items():
        name = re.sub(r"[\W_]", "", key.lower())
        is_text = is_message and name in _TEXT_KEYS
        if is_text or not _OTHER_KEY.search(name):
            # Lists by field: ``{"errors": {"account": ["…"]}}``.
            is_about = is_text or (is_message and isinstance(inner, list))
            is_named = _MESSAGE_KEY.search(name) is not None
            yield from _texts(inner, depth - 1, is_message=is_named or is_about)


def _known_message(value: Any) -> str:
    """The message at the places where most providers have it."""
    # Google answers with a list of one.
    answer = mapping_in(next(iter(list_in(value)), value))
    # Tencent's form has capital letters.
    response = mapping_in(answer.get("response") or answer.get("Response"))
    choice = mapping_in(next(iter(list_in(answer.get("choices"))), None))
    inner = (response.get("error"), response.get("Error"), choice.get("error"))
    for holder in (
        *(answer.get("error"), answer.get("errors"), *inner),
        *(mapping_in(answer.get("status")), answer),
    ):
        if isinstance(holder, str) and holder.strip():
            return holder.strip()
        known = mapping_in(holder)
        found = (text_in(known.get(key)) or _listed(known.get(key)) for key in _MESSAGE_KEYS)
        if message := next(filter(None, (text.strip() for text in found)), ""):
            return message
    return _listed(answer.get("errors")) or _listed(answer.get("error"))


def _listed(value: Any) -> str:
    """The messages of a list of faults, each with the field that it is about (FastAPI's form)."""
    faults = [_fault(mapping_in(item)) for item in list_in(value)]
    return "; ".join(filter(None, faults))


def _fault(fault: Mapping[str, Any]) -> str:
    message = text_in(fault.get("msg")) or text_in(fault.get("message")) or ""
    field = ".".join(str(part) for part in list_in(fault.get("loc")))
    return f"{field}: {message}" if field and message else message


def _without_exception(message: str) -> str:
    for pattern, sentence in _CONNECTION_FAULTS:
        if re.search(pattern, message):
            return sentence
    exception = _EXCEPTION.match(message)
    if exception is None:
        return message
    is_plain = exception["name"] == "Error" or exception["name"].startswith("AI_")
    return exception["text"] if is_plain else f"internal error of opencode: {exception['text']}"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
