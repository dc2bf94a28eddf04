"""Bedrock with AWS access keys: a request arrives exactly as the AWS SDK signed it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bedrock import MODEL, BedrockServer
from rig import RARELY_CLI, Asked, Rig

from opencode_tasks.errors import AuthenticationError
from opencode_tasks.opencode.backend import BackendName, Secrets

OTHER_LOGINS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK")


@pytest.fixture
def bedrock(monkeypatch: pytest.MonkeyPatch) -> Iterator[BedrockServer]:
    for name in OTHER_LOGINS:
        monkeypatch.delenv(name, raising=False)
    with BedrockServer() as server:
        yield server


def ask(
    binary: Path,
    bedrock: BedrockServer,
    *,
    backend: BackendName = "server",
    headers: dict[str, str] | None = None,
    **environment: str,
) -> Asked:
    """Send one prompt to the model; ``headers`` are the model's in the user's config."""
    with Rig(binary, extra=bedrock.opencode_config(headers)) as rig:
        rig.spec = replace(rig.spec, secrets=Secrets(environment=bedrock.environment | environment))
        return rig.ask(model=f"amazon-bedrock/{MODEL}", backend=backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_signed_request_is_accepted_and_its_answer_is_counted(
    opencode_binary: Path, bedrock: BedrockServer, backend: BackendName
) -> None:
    asked = ask(opencode_binary, bedrock, backend=backend)
    assert [call.is_valid for call in bedrock.calls] == [True]
    assert asked.text == bedrock.text
    (step,) = asked.attempt.steps
    assert (step.usage.input_tokens, step.usage.output_tokens) == (12, 5)
    assert asked.attempt.notes == ()


@pytest.mark.nightly
def test_a_header_of_ours_is_signed_too(opencode_binary: Path, bedrock: BedrockServer) -> None:
    asked = ask(opencode_binary, bedrock, headers={"X-Session-Affinity": "team-7"})
    (call,) = bedrock.calls
    assert call.is_valid
    assert call.headers["x-opencode-tasks-session"] == asked.attempt.session_id
    assert "x-opencode-tasks-session" in call.headers["authorization"]
    assert asked.text == bedrock.text


@pytest.mark.nightly
def test_a_wrong_key_is_an_authentication_error(opencode_binary: Path, bedrock: BedrockServer) -> None:
    asked = ask(opencode_binary, bedrock, AWS_SECRET_ACCESS_KEY="another key")
    asked.failed(AuthenticationError)
    assert [call.is_valid for call in bedrock.calls] == [False]
