"""Reasoning that a model writes into the text of its answer. Pure.

Servers without a reasoning parser (llama.cpp, vLLM and Ollama with Qwen3 or DeepSeek-R1, for example) send
it as text between tags, ``<think>…</think>`` for most models. Some chat templates contain the first tag
already, so that only the second one is in the text.
"""

from __future__ import annotations

import re

from opencode_tasks.domain.json_in_text import is_json, outside_of_json

# docs/explanation/answers.md lists the models. A tag in a code span is a text about tags.
_TAG = re.compile(r"(?<!`)(?:(?i:</?(?:think|thinking|thought|seed:think)\s*>)|\[/?THINK\]|◁/?think▷)")
# Also names in the text of an answer: they are tags of reasoning only if the text begins with one.
_COMMON_NAMES = frozenset({"<thinking>", "<thought>"})
# With a byte order mark.
_SPACE = " \t\r\n\ufeff"


def split_reasoning(text: str) -> tuple[str, str]:
    """Return the reasoning in a text, "" if there is none, and the answer.

    The reasoning is what stands in ``<think>…</think>`` or between other known tags, before a ``</think>``
    without a beginning, and after a ``<think>`` without an end with which the text begins. A tag inside a
    JSON value is text. An answer without reasoning is returned unchanged, and one with it without white space
    around it.
    """
    if _TAG.search(text) is None or (text.lstrip()[:1] == '"' and is_json(text.strip())):
        return "", text
    reasoning: list[str] = []
    answer: list[str] = []
    start, opened = 0, None
    for tag in outside_of_json(text, _TAG.finditer(text)):
        is_end, name = "/" in tag[0], _name(tag)
        if opened is not None:
            if is_end and name == _name(opened):
                reasoning.append(text[start : tag.start()])
                start, opened = tag.end(), None
            continue
        before = text[start : tag.start()]
        if name in _COMMON_NAMES and (is_end or _has_text([before, *answer])):
            continue
        answer.append(before)
        start = tag.end()
        if is_end:
            reasoning.append("".join(answer))
            answer = []
        else:
            opened = tag
    if opened is None:
        answer.append(text[start:])
    elif _has_text(answer):
        answer.append(text[opened.start() :])
    else:
        reasoning.append(text[start:])
    if not reasoning:
        return "", text
    return "\n\n".join(part.strip() for part in reasoning if part.strip()), "".join(answer).strip(_SPACE)


def _name(tag: re.Match[str]) -> str:
    """The tag as the first of its pair, in lower case and without spaces."""
    return re.sub(r"[/\s]", "", tag[0]).casefold()


def _has_text(parts: list[str]) -> bool:
    return any(part.strip(_SPACE) for part in parts)
