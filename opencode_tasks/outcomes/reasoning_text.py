"""Reasoning that a model writes into the text of its answer. Pure.

Servers without a reasoning parser (llama.cpp, vLLM and Ollama with Qwen3 or DeepSeek-R1, for example) send
it as text in ``<think>…</think>``. Some chat templates contain the first tag already, so that only the
second one is in the text.
"""

from __future__ import annotations

import json
import re

# A tag in a code span is a text about tags.
_TAG = re.compile(r"(?<!`)<(/?)think>")


def split_reasoning(text: str) -> tuple[str, str]:
    """Return the reasoning in a text, "" if there is none, and the answer.

    The reasoning is what stands in ``<think>…</think>``, before a ``</think>`` without a beginning, and
    after a ``<think>`` without an end with which the text begins. An answer without reasoning is returned
    unchanged, and one with it without white space around it. JSON is an answer as a whole.
    """
    if "think>" not in text or _is_json(text):
        return "", text
    reasoning: list[str] = []
    answer, start, opened = "", 0, None
    for tag in _TAG.finditer(text):
        if tag[1]:
            before = "" if opened else answer
            answer = answer if opened else ""
            reasoning.append(before + text[start : tag.start()])
            start, opened = tag.end(), None
        elif opened is None:
            answer += text[start : tag.start()]
            start, opened = tag.end(), tag
    if opened is not None and not answer.strip():
        reasoning.append(text[start:])
    elif opened is not None:
        answer += text[opened.start() :]
    else:
        answer += text[start:]
    if not reasoning:
        return "", text
    return "\n\n".join(part.strip() for part in reasoning if part.strip()), answer.strip()


def _is_json(text: str) -> bool:
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
