"""The local model as a provider in the opencode config. Pure."""

from __future__ import annotations

from typing import Any

PROVIDER_ID = "local"
MODEL_ID = "smollm2"
LOCAL_PREFIX = "local/"
PROVIDER_MODEL_REF = f"{PROVIDER_ID}/{MODEL_ID}"

CONTEXT_TOKENS = 2048
"""Maximum length of prompt and answer together. llama.cpp refuses a longer prompt with status 400."""

OUTPUT_TOKENS = 512
"""Maximum length of an answer. Without a limit, a model of this size can repeat itself endlessly."""


def opencode_provider_config(base_url: str) -> dict[str, Any]:
    """Opencode config that adds the model at ``base_url`` (which ends in ``/v1``) as ``local/smollm2``.

    The prices are 0, because the model is free; without prices its cost would be unknown. Compaction is
    off: opencode 1.18.33 summarizes a conversation that leaves less than ``output`` tokens of the context,
    and fails if the summary does not fit, which is always the case here.
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
