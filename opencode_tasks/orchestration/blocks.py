"""Prefect blocks: credentials and agents that deployments name instead of holding."""

from __future__ import annotations

from typing import Any

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field


# Not dict[str, SecretStr]: Prefect 3.8 gives the values of such a field out in its API.
def _no_secrets() -> SecretDict:
    return SecretDict({})


class OpenCodeCredentials(Block):
    """Provider keys for opencode, kept by Prefect and handed to opencode's environment alone.

    ``api_keys`` are by opencode's provider id (``anthropic``, ``openai``, one of your own config),
    ``environment`` by variable, for providers that want more than a key (``AWS_ACCESS_KEY_ID``).
    A key given here wins over the login of the machine that opencode runs on.

    >>> OpenCodeCredentials(api_keys={"anthropic": "sk-…"}).save("team")
    """

    _block_type_name = "OpenCode Credentials"
    _block_type_slug = "opencode-credentials"
    _description = "Provider keys for opencode, handed to its environment alone."

    api_keys: SecretDict = Field(
        default_factory=_no_secrets, title="API keys", description="Keys by provider id: {anthropic: sk-…}."
    )
    environment: SecretDict = Field(
        default_factory=_no_secrets, description="Environment variables for opencode, by name."
    )


class OpenCodeAgent(Block):
    """How rows are asked: model, system text, tools and limits, under one name.

    A flow names it: ``annotate_dataset(…, agent="reviewer")``. What the flow is given itself wins.
    """

    _block_type_name = "OpenCode Agent"
    _block_type_slug = "opencode-agent"
    _description = "Model, system text, tools and limits for annotating, under one name."

    model: str | None = Field(
        default=None, description="provider/model; opencode's own default where there is none."
    )
    system: str | None = Field(default=None, description="System text.")
    agent: str | None = Field(
        default=None,
        description="Agent of the config below, or of opencode's own; one without tools by default.",
    )
    variant: str | None = Field(default=None, description="Variant of the model (reasoning effort).")
    config: dict[str, Any] = Field(
        default_factory=dict, description="opencode config: providers, agents, MCP servers. No secrets."
    )
    mcp_servers: dict[str, str] = Field(
        default_factory=dict,
        title="MCP servers",
        description="URLs of remote MCP servers by name; the agent may use all their tools.",
    )
    answer_schema: dict[str, Any] | None = Field(
        default=None, title="Schema", description="JSON Schema of the answer; each field becomes a column."
    )
    timeout: float | None = Field(default=None, description="Seconds that one attempt may take.")
    max_attempts: int | None = Field(default=None, description="Attempts of one row.")
    max_row_cost: float | None = Field(default=None, description="What one row may cost, in USD.")
    credentials: OpenCodeCredentials | None = Field(
        default=None, description="Keys to use; those of the machine where there are none."
    )
