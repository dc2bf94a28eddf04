"""Prefect blocks: credentials and agents that deployments name instead of holding."""

from __future__ import annotations

from typing import Any

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field

from opencode_tasks.plan.option_table import DATASET


# Not dict[str, SecretStr]: Prefect 3.8 gives the values of such a field out in its API.
def _no_secrets() -> SecretDict:
    return SecretDict({})


def _option(name: str) -> Any:
    """A field with the meaning of the option of that name; None leaves the option its default."""
    return Field(default=None, description=DATASET[name].description)


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

    model: str | None = _option("model")
    system: str | None = _option("system")
    agent: str | None = Field(
        default=None,
        description="Agent of the config below, or of opencode's own. Default: an agent without tools.",
    )
    variant: str | None = _option("variant")
    opencode_config: dict[str, Any] = Field(
        default_factory=dict, description="opencode config: providers, agents, MCP servers. No secrets."
    )
    mcp_servers: dict[str, str] = Field(
        default_factory=dict,
        title="MCP servers",
        description="URLs of remote MCP servers by name. The agent may use all their tools.",
    )
    # "schema" is a method of every block.
    answer_schema: dict[str, Any] | None = Field(
        default=None, title="Schema", description=DATASET["schema"].info.help
    )
    timeout: float | None = _option("timeout")
    max_attempts: int | None = _option("max_attempts")
    max_row_cost: float | None = _option("max_row_cost")
    credentials: OpenCodeCredentials | None = Field(
        default=None, description="Provider keys. Default: the logins and keys of the machine."
    )
