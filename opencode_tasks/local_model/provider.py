"""The local model as a provider in opencode's config; pure values."""

from __future__ import annotations

from typing import Any

PROVIDER_ID = "local"
MODEL_ID = "smollm2"
LOCAL_PREFIX = "local/"
PROVIDER_MODEL_REF = f"{PROVIDER_ID}/{MODEL_ID}"

CONTEXT_TOKENS = 2048
"""What one conversation may hold, prompt and answer; llama.cpp refuses a longer prompt with a 400."""

OUTPUT_TOKENS = 512
"""The longest answer: a model this small may repeat itself for ever."""


def opencode_provider_config(base_url: str) -> dict[str, Any]:
    """The opencode config that adds the model at ``base_url`` (its ``/v1``) as ``local/smollm2``.

    The prices are zero and not absent: the model is free, which is not the same as unpriced. Opencode
    1.18.33 summarizes a conversation, answered or not, that leaves less than ``output`` of the context,
    and fails where the summary does not fit: here it would never fit, so that is off.
    """
    model = {
        "name": "SmolLM2-135M-Instruct",
        "attachment": False,
        "reasoning": False,
        "tool_call": False,
        "cost": {"input": 0, "output": 0, "cache_read": 0, "cache_write": 0},
        "limit": {"context": CONTEXT_TOKENS, "output": OUTPUT_TOKENS},
    }
    provider = {
        "name": "Local model",
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": base_url, "apiKey": "none"},
        "models": {MODEL_ID: model},
    }
    return {"provider": {PROVIDER_ID: provider}, "compaction": {"auto": False}}
