"""The parts of a provider's failed answer that a class may be decided by. Pure.

Only these parts count: the HTTP status, machine-readable values in the body, and the provider's message.
A message may quote the prompt, so words in it that also occur in the prompt do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in
from opencode_tasks.domain.text import plain_words
from opencode_tasks.outcomes.error_message import body_message
from opencode_tasks.outcomes.failure import Failure

# Keys whose values are machine-readable. "param" and "input" may hold what the user sent.
CODE_KEYS = (
    *("code", "type", "status", "reason", "error_code", "errorCode", "errorcode", "error_type", "errorType"),
    *("name", "__type", "Code"),
)
# Keys under which a provider or gateway puts its error, or that of the provider behind it.
CONTAINER_KEYS = (
    *("error", "errors", "details", "detail", "metadata", "innererror", "inner_error", "cause"),
    *("response", "choices", "data", "raw", "base_resp", "fault", "error_details", "provider_error"),
    *("message", "Response", "Error", "err", "exception", "result"),
)
CODE_HEADERS = ("x-amzn-errortype", "x-ms-error-code")
# Names of exceptions that LiteLLM and the AWS SDK write into a message, and no other meaning than these.
_NAMES_IN_TEXT = re.compile(
    r"\b(ContentPolicyViolationError|ContextWindowExceededError|BudgetExceededError|ThrottlingException"
    r"|ModelNotReadyException|ModelTimeoutException|ModelErrorException|ModelStreamErrorException"
    r"|InternalServerException|ServiceUnavailableException|ExpiredTokenException"
    r"|UnrecognizedClientException|InvalidSignatureException)\b"
)
# A field of an error that a gateway wrote into its message, as JSON that was cut or in Python's form.
_FIELD_IN_TEXT = re.compile(r"""['"](?:code|type|status|reason)['"]\s?:\s?['"]([\w.-]{1,60})['"]""")
# The request of the client, as pydantic quotes it in its messages.
_QUOTED_INPUT = re.compile(
    r"""\b(?:input|input_value|received|given|got|found|instead|value)['"]?\s?[=:]\s?(?:'[^']{0,2000}'?|"[^"]{0,2000}"?)"""
)
MAX_DEPTH = 8
MAX_CODE_LENGTH = 100
# The search for words stays short for a message of any length.
MAX_MESSAGE_LENGTH = 4_000
LOWEST_STATUS, HIGHEST_STATUS = 400, 599


@dataclass(frozen=True)
class ProviderAnswer:
    """A failed answer, as the rules of ``provider_errors`` see it.

    Attributes:
        failure: The failure with the answer.
        prompt: Text that was sent; a word of the message that occurs in it says nothing.
    """

    failure: Failure
    prompt: str = ""

    @cached_property
    def codes(self) -> frozenset[str]:
        """The machine-readable values in body and headers, in lower case."""
        in_body = _codes(_parsed(self.failure.body), self._plain_prompt, MAX_DEPTH)
        # AWS sends an address after the name of the error and a colon.
        in_headers = (self.failure.headers.get(name, "").partition(":")[0] for name in CODE_HEADERS)
        values = (*in_body, *in_headers, *self._codes_in_text())
        # The protocol of AWS puts a namespace before the name.
        found = (str(value).rpartition("#")[2].strip().lower() for value in values)
        return frozenset(code for code in found if code and len(code) <= MAX_CODE_LENGTH)

    @cached_property
    def status(self) -> int | None:
        """The HTTP status of the error; inside a stream, the one that its body names; None without one."""
        if not self.failure.in_stream:
            return self.failure.status
        if self.failure.status == 0:
            return 0
        numbers = {int(code) for code in self.codes if re.fullmatch(r"[0-9]{3}", code)}
        known = sorted(number for number in numbers if LOWEST_STATUS <= number <= HIGHEST_STATUS)
        return known[0] if known else None

    @cached_property
    def message(self) -> str:
        """The provider's message; "" without one."""
        body = self.failure.body
        parts = [body_message(body) or self.failure.message, *map(_raw_message, details_in(body))]
        text = " ".join(filter(None, parts))
        said = (text or ("" if _parsed(body) is not None else body))[:MAX_MESSAGE_LENGTH]
        return _QUOTED_INPUT.sub("", said)

    @property
    def names_wait(self) -> bool:
        """Whether the headers name the time of the next request."""
        return not {"retry-after", "retry-after-ms"}.isdisjoint(self.failure.headers)

    def says(self, words: re.Pattern[str]) -> bool:
        """Whether the message has these words, and not because it quotes the prompt."""
        return any(
            plain_words(found.group()) not in self._plain_prompt for found in words.finditer(self.message)
        )

    def has_code(self, words: re.Pattern[str]) -> bool:
        """Whether the words are in a machine-readable value, whose letters are taken without separators."""
        names = (re.sub(r"[_.-]", "", code) for code in self.codes if " " not in code)
        return any(words.search(name) for name in names)

    def _codes_in_text(self) -> Iterator[str]:
        for pattern in (_NAMES_IN_TEXT, _FIELD_IN_TEXT):
            for found in pattern.finditer(self.message):
                if plain_words(found.group()) not in self._plain_prompt:
                    yield found[1]

    @cached_property
    def _plain_prompt(self) -> str:
        return plain_words(self.prompt)


def _raw_message(part: Mapping[str, Any]) -> str:
    """The message of the provider behind OpenRouter."""
    raw = mapping_in(part.get("metadata")).get("raw")
    text = raw if isinstance(raw, str) else json.dumps(raw) if raw else ""
    return body_message(text) or text


def _codes(value: Any, prompt: str, depth: int) -> Iterator[Any]:
    """The machine-readable values in an error and in the errors inside it; not those of a quotation."""
    if depth == 0:
        return
    if isinstance(value, str):
        # A gateway passes the body of the provider behind it on as text.
        start = min((at for at in map(value.find, "{[") if at >= 0), default=-1)
        if start >= 0 and plain_words(value[start:]) not in prompt:
            yield from _codes(_parsed(value[start:]), prompt, depth - 1)
    for item in list_in(value):
        yield from _codes(item, prompt, depth - 1)
    holder = mapping_in(value)
    yield from _own_codes(holder)
    for key in filter(holder.__contains__, CONTAINER_KEYS):
        yield from _codes(holder[key], prompt, depth - 1)


def _own_codes(holder: Mapping[str, Any]) -> Iterator[Any]:
    for key in CODE_KEYS:
        if isinstance(code := holder.get(key), str | int) and not isinstance(code, bool):
            yield code
    # Events of AWS streams, passed on by a gateway, have the name of the exception as their key.
    yield from (key for key in holder if key.endswith("Exception") and mapping_in(holder[key]))
    if "flagged_input" in holder:
        yield "flagged_input"
    if (code := mapping_in(holder.get("base_resp")).get("status_code")) is not None:
        yield f"base_resp.{code}"
    if isinstance(text := holder.get("error"), str) and re.fullmatch(r"\w+", text):
        yield text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def details_in(body: str) -> list[Mapping[str, Any]]:
    """The error object of a body and its details; Google answers with a list of one."""
    parsed = _parsed(body)
    answers = [mapping_in(answer) for answer in list_in(parsed) or [parsed]]
    errors = [mapping_in(answer.get("error")) for answer in answers]
    details = [mapping_in(detail) for error in errors for detail in list_in(error.get("details"))]
    return [*answers, *errors, *details]
