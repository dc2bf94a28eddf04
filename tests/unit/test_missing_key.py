"""Providers of opencode's catalogue without a key: a warning, and no false alarm."""

from __future__ import annotations

from typing import Any

import pytest

from opencode_tasks.opencode.missing_key import missing_key

PROVIDER = {"id": "p", "env": ["P_API_KEY"], "options": {"timeout": 600_000}}
MODEL = {"api": {"npm": "@ai-sdk/anthropic", "url": ""}}
GENERAL = {"api": {"npm": "@ai-sdk/openai-compatible", "url": "https://api.p.example/v1"}}


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ({}, {}),
        ({}, GENERAL),
        ({"env": ["P_API_KEY", "OTHER_KEY"]}, {"api": {"npm": "@ai-sdk/google"}}),
        ({"options": {}}, {"headers": {}}),
    ],
)
def test_a_provider_that_needs_a_key_and_has_none(provider: dict[str, Any], model: dict[str, Any]) -> None:
    entry = PROVIDER | provider
    assert missing_key(entry, MODEL | model, {"q": "oauth"}, {"Q_API_KEY": "x"}) == tuple(entry["env"])


@pytest.mark.parametrize(
    ("provider", "model", "logins", "environ"),
    [
        ({}, {}, {"p": "api"}, {}),
        ({}, {}, {"p": "oauth"}, {}),
        ({}, {}, {"https://company.example": "wellknown"}, {}),
        ({}, {}, {}, {"P_API_KEY": "x"}),
        ({"env": ["A_KEY", "B_KEY"]}, {}, {}, {"B_KEY": "x"}),
        ({}, {}, {}, {"ANTHROPIC_BASE_URL": "https://gateway.example"}),
        ({"key": "x"}, {}, {}, {}),
        ({"options": {"apiKey": "x"}}, {}, {}, {}),
        ({"options": {"baseURL": "http://gateway.example/v1"}}, {}, {}, {}),
        ({"options": {"headers": {"authorization": "x"}}}, {}, {}, {}),
        ({}, {"headers": {"authorization": "x"}}, {}, {}),
        ({}, {"options": {"apiKey": "x"}}, {}, {}),
        ({"env": []}, GENERAL, {}, {}),
        ({}, {"api": {"npm": "@ai-sdk/openai-compatible", "url": "http://127.0.0.1:1234/v1"}}, {}, {}),
        ({}, {"api": {"npm": "@ai-sdk/openai-compatible", "url": ""}}, {}, {}),
        ({"env": ["AWS_ACCESS_KEY_ID"]}, {"api": {"npm": "@ai-sdk/amazon-bedrock"}}, {}, {}),
        ({"env": ["GOOGLE_APPLICATION_CREDENTIALS"]}, {"api": {"npm": "@ai-sdk/google-vertex"}}, {}, {}),
        ({"env": ["AZURE_API_KEY"]}, {"api": {"npm": "@ai-sdk/azure"}}, {}, {}),
        ({"env": ["GITHUB_TOKEN"]}, {"api": {"npm": "@ai-sdk/github-copilot"}}, {}, {}),
        ({"env": ["CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_KEY"]}, GENERAL, {}, {}),
        ({}, {"api": {"npm": "@ai-sdk/gateway"}}, {}, {}),
    ],
)
def test_what_may_work_without_a_key_in_the_environment(
    provider: dict[str, Any], model: dict[str, Any], logins: dict[str, str], environ: dict[str, str]
) -> None:
    assert missing_key(PROVIDER | provider, MODEL | model, logins, environ) == ()
