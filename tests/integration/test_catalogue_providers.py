"""Providers of opencode's own catalogue, with the keys of the environment, at the scripted provider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Rig

from opencode_tasks import AuthenticationError, RateLimitError
from opencode_tasks.testing import Reply

# The model of a provider, its variable, the path of its base URL, and the path of its requests.
PROVIDERS = {
    "xai": ("grok-4.3", "XAI_API_KEY", "/xai/v1", "/xai/v1/responses"),
    "openai": ("gpt-5.2", "OPENAI_API_KEY", "/v1", "/v1/responses"),
    "anthropic": ("claude-haiku-4-5", "ANTHROPIC_API_KEY", "/v1", "/v1/messages"),
    "google": (
        "gemini-2.5-flash",
        "GOOGLE_GENERATIVE_AI_API_KEY",
        "/v1beta",
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
    ),
}


@pytest.fixture(scope="module")
def catalogue_rig(opencode_binary: Path) -> Iterator[Rig]:
    rig = Rig(opencode_binary)
    fake = rig.provider.opencode_config()["provider"]["fake"]
    origin = fake["options"]["baseURL"].removesuffix("/v1")
    providers = {name: {"options": {"baseURL": origin + base}} for name, (_, _, base, _) in PROVIDERS.items()}
    rig.configure({"provider": providers})
    with pytest.MonkeyPatch.context() as patch:
        for _, variable, _, _ in PROVIDERS.values():
            patch.setenv(variable, "sk-test")
        with rig:
            yield rig


@pytest.mark.slow
@pytest.mark.parametrize("name", PROVIDERS)
def test_answers_and_errors_of_a_provider_of_the_catalogue(catalogue_rig: Rig, name: str) -> None:
    model, _, _, path = PROVIDERS[name]
    counted = Reply(
        text="whole",
        reasoning_text="Well.",
        input_tokens=100,
        cache_read_tokens=30,
        output_tokens=20,
        reasoning_tokens=5,
    )
    asked = catalogue_rig.ask(counted, model=f"{name}/{model}")
    assert asked.text == "whole"
    assert [call.path for call in asked.calls] == [path]
    (step,) = asked.attempt.steps
    assert (step.usage.input_tokens, step.usage.cache_read_tokens) == (70, 30)
    assert (step.usage.output_tokens or 0) + (step.usage.reasoning_tokens or 0) == 20
    assert step.usage.cost_pico
    limited = Reply(status=429, headers={"retry-after": "7200"}, body={"error": {"message": "slow down"}})
    assert len(catalogue_rig.ask(limited, model=f"{name}/{model}").calls) == 1
    catalogue_rig.ask(limited, model=f"{name}/{model}").failed(RateLimitError)
    refused = Reply(status=401, body={"error": {"message": "no such key"}})
    catalogue_rig.ask(refused, model=f"{name}/{model}").failed(AuthenticationError)
