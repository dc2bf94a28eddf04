"""JSON values in the text of an answer. Pure.

A model may put words, code fences or a draft around the value that was asked for, and may write JSON that
a strict parser refuses. Text with one meaning is accepted; any other is a fault with its reason.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, cast

import json5

from opencode_tasks.domain.json_values import is_deeper

# The writers of OUTPUT recurse into an answer, and Python limits the depth of that.
MAX_DEPTH = 100
# Digits of the largest number that a float can hold.
MAX_DIGITS = 308
SHOWN_DIGITS = 40
# json5 needs a second for 50,000 characters.
MAX_LENIENT_LENGTH = 4_000
# Values that are read, from the end of a text, and brackets without an end that are passed over.
MAX_VALUES = 20
MAX_LONE_BRACKETS = 20

_BRACKETS = {"{": "}", "[": "]"}
_OPENING = re.compile(r"[{\[]")
# A bracket, a string, or a quotation mark that ends nowhere.
_TOKEN = re.compile(r'[{}\[\]]|"(?:[^"\\]|\\.)*"?', re.DOTALL)
# In JSON with comments and single quotes: a comment or a string, each to the end of the text if it has none.
_STRING_OR_COMMENT = re.compile(
    r"""//[^\n]*|/\*.*?(?:\*/|\Z)|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?""", re.DOTALL
)
# As Python writes them, in place of a value.
_PYTHON_WORD = re.compile(
    rf"(?:{_STRING_OR_COMMENT.pattern})|(?<=[:\[,\s])(?:True|False|None)(?=\s*[,\]}}])", re.DOTALL
)
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_KNOWN_ESCAPES = frozenset("\"'\\/bfnrtu")
_OBJECT = re.compile(r"\{(?:\s*\}|[^:]*:)")
_FENCE_BEFORE = re.compile(r"```[\w-]*\s*\Z")
_FENCE_AFTER = re.compile(r"\s*```")
# Characters before a value among which a code fence or the start of its line is found.
_NEAR = 80
_START = re.compile(r'\{\s*["}]|\[\s*[\[{"]')


Place = Literal["whole", "fence", "lines", "words"]
"""What is around a value: nothing, a code fence, line breaks, or words."""


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON value in a text, or the ``fault`` that prevents reading it.

    ``rules_out_earlier``: no earlier value of the text is used instead, because the text ends before this
    value does, because the value is readable and refused, or because it is meant as the answer.
    """

    value: Any = None
    fault: str | None = None
    rules_out_earlier: bool = False
    place: Place = "whole"

    def checked(self) -> Found:
        """The value, or the fault of one that no output can hold: too deep, NUL, half of a character."""
        try:
            return replace(self, value=_checked(self.value))
        except ValueError as error:
            return Found(fault=str(error), rules_out_earlier=True)


def values_in(text: str, attempt: re.Pattern[str], *, of_objects: bool) -> Iterator[Found]:
    """Yield the objects and arrays in a text that are not inside others, the last one first, twenty at most.

    ``attempt`` is found in what is meant as the answer, even if it is broken. With ``of_objects``, other
    arrays and braces without a colon, such as citations and formulas, are left out if there is anything else.
    If the whole text is another JSON value, that is the only one; what a text in quotation marks holds comes
    before the text itself. Something in brackets that is no JSON is yielded with its fault. So is an object
    that is cut off: its inner objects are not used instead.
    """
    if whole := _whole(text.strip()):
        yield from whole
        return
    parts = list(_parts(text, attempt))
    if of_objects:
        objects = [
            (start, end)
            for start, end in parts
            if end is None or _OBJECT.match(text, start, end) or attempt.search(text, start, end)
        ]
        parts = objects or parts
    for start, end in islice(reversed(parts), MAX_VALUES):
        part = text[start:end]
        found = _read(part)
        rules_out_earlier = found.rules_out_earlier or end is None or attempt.search(part) is not None
        yield replace(found, rules_out_earlier=rules_out_earlier, place=_place(text, start, end))


def is_json(text: str) -> bool:
    """Return whether a text is one JSON value, which may be one that is refused as an answer."""
    try:
        _loads(text)
    except _RefusedError:
        return True
    except (ValueError, RecursionError):
        return False
    return True


def outside_of_json(text: str, marks: Iterable[re.Match[str]]) -> Iterator[re.Match[str]]:
    """Yield those of the marks, ordered matches in the text, that are in no object or array of it."""
    start, lone_brackets = 0, 0
    opening = _next_bracket(text, start)
    for mark in marks:
        while opening is not None and opening < mark.start() and lone_brackets < MAX_LONE_BRACKETS:
            end = _end(text, opening)
            if end is not None and (end <= mark.start() or is_json(text[opening:end])):
                start = end
            else:
                start = opening + 1
                lone_brackets += 1
            opening = _next_bracket(text, start)
        if start <= mark.start():
            yield mark


def _whole(text: str) -> list[Found]:
    """The values that a text which is JSON as a whole can mean; [] if it is not."""
    if not text or text[0] in _BRACKETS:
        # Other values may follow, and the faults are found there.
        return []
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return []
    inner = value.strip() if isinstance(value, str) else ""
    held = [replace(_read(inner), rules_out_earlier=False)] if inner[:1] in _BRACKETS else []
    return [*held, _read(text)]


def _parts(text: str, attempt: re.Pattern[str]) -> Iterator[tuple[int, int | None]]:
    """Start and end of the parts of a text from a bracket to the one that closes it; None if none does."""
    start, lone_brackets = 0, 0
    while (opening := _next_bracket(text, start)) is not None and lone_brackets < MAX_LONE_BRACKETS:
        end = _end(text, opening)
        if end is not None:
            yield opening, end
            start = end
        elif _START.match(text, opening) or attempt.match(text, opening):
            yield opening, None
            return
        else:
            start = opening + 1
            lone_brackets += 1


def _place(text: str, start: int, end: int | None) -> Place:
    before = text[max(0, start - _NEAR) : start]
    after = "" if end is None else text[end : end + _NEAR]
    if _FENCE_BEFORE.search(before) and _FENCE_AFTER.match(after):
        return "fence"
    is_alone = not before.rpartition("\n")[2].strip() and not after.partition("\n")[0].strip()
    return "lines" if is_alone else "words"


def _next_bracket(text: str, start: int) -> int | None:
    found = _OPENING.search(text, start)
    return found and found.start()


def _end(text: str, start: int) -> int | None:
    """The position after the bracket that closes the one at ``start``; None if there is none."""
    open_brackets: list[str] = []
    for token in _TOKEN.finditer(text, start):
        sign = token[0]
        if sign in _BRACKETS:
            open_brackets.append(_BRACKETS[sign])
        elif sign[0] == '"':
            continue
        elif open_brackets.pop() != sign:
            return None
        if not open_brackets:
            return token.end()
    return None


def _read(text: str) -> Found:
    try:
        return Found(_loads(text)).checked()
    except RecursionError:
        return Found(fault="the answer is nested too deeply", rules_out_earlier=True)
    except _RefusedError as error:
        return Found(fault=str(error), rules_out_earlier=True)
    except ValueError as error:
        return Found(fault=str(error))


def _loads(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        kind = "array" if text.startswith("[") else "object"
        fault = f"the JSON {kind} is broken at character {error.pos + 1}: {error.msg}"
        escaped = _STRING_OR_COMMENT.sub(_escaped, text)
        if escaped != text:
            position = next(at for at, sign in enumerate(escaped) if text[at] != sign)
            escape = text[position - 1 : position + 1].strip()
            fault = f"the JSON {kind} has the unknown escape {escape} at character {position}"
            fault += "; write \\\\ for a backslash"
            if is_json(escaped):
                raise _RefusedError(fault) from error
        elif len(text) <= MAX_LENIENT_LENGTH:
            try:
                return _lenient(text)
            except _RefusedError:
                raise
            except ValueError:
                pass
        raise ValueError(fault) from error


def _escaped(part: re.Match[str]) -> str:
    """A string with two backslashes for each that begins no escape of JSON; a comment as it is.

    json5 drops such a backslash, but most writers mean it: a regular expression, or a path.
    """
    if part[0][0] == "/":
        return part[0]
    return _ESCAPE.sub(lambda escape: escape[0] if escape[1] in _KNOWN_ESCAPES else f"\\{escape[0]}", part[0])


def _lenient(text: str) -> Any:
    """JSON with comments, single quotes, words of Python or a comma after the last item."""
    return cast("Any", json5).loads(
        _PYTHON_WORD.sub(lambda part: _PYTHON_WORDS.get(part[0], part[0]), text),
        parse_constant=_no_constant,
        parse_float=_finite,
        parse_int=_short_integer,
        object_pairs_hook=_object,
    )


def _checked(value: Any) -> Any:
    if is_deeper(value, MAX_DEPTH):
        raise ValueError(f"the answer is nested more than {MAX_DEPTH} levels deep")
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the answer contains an invalid character (a lone surrogate)") from error
    if "\\u0000" in text.replace("\\\\", ""):
        raise ValueError("the answer contains a NUL character")
    return value


class _RefusedError(ValueError):
    """A value that is readable and not accepted."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members and members[key] != value:
            raise _RefusedError(f"the key {key[:SHOWN_DIGITS]!r} occurs twice with different values")
        members[key] = value
    return members


def _no_constant(name: str) -> Any:
    raise _RefusedError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _RefusedError(f"the number {text[:SHOWN_DIGITS]} is too large")
    return number


def _short_integer(text: str, base: int = 10) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise _RefusedError(f"the number {text[:SHOWN_DIGITS]}… has more than {MAX_DIGITS} digits")
    return int(text, base)


# Not strict: a line break inside a string has one meaning.
_DECODER = json.JSONDecoder(
    parse_constant=_no_constant,
    parse_float=_finite,
    parse_int=_short_integer,
    object_pairs_hook=_object,
    strict=False,
)
