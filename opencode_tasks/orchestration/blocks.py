"""Prefect blocks: credentials and agents that deployments name instead of holding them."""

from __future__ import annotations

from typing import Any, TypeVar

import httpx
from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field, ValidationError

from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.orchestration.blocking_calls import call_blocking
from opencode_tasks.plan.option_signatures import DATASET

B = TypeVar("B", bound=Block)


# Not dict[str, SecretStr]: the API of Prefect 3.8 shows the values of such a field.
def _no_secrets() -> SecretDict:
    return SecretDict({})


def _option(name: str) -> Any:
    """A field with the meaning of the option of that name; None keeps the default of the option."""
    return Field(default=None, description=DATASET[name].description)


class OpenCodeCredentials(Block):
    """Provider keys for opencode, stored by Prefect and passed to opencode's environment alone.

    A key of the block has precedence over a login on the machine that opencode runs on.

    Attributes:
        api_keys: Keys by provider id of opencode (``anthropic``, ``openai``, or one of your opencode config).
        environment: Values by environment variable, for providers that need more than a key, such as
            ``AWS_ACCESS_KEY_ID``.

    Examples:
        >>> from opencode_tasks import OpenCodeCredentials
        >>> block = OpenCodeCredentials(api_keys={"anthropic": "sk-…"})
        >>> _ = block.save("team", overwrite=True)
        >>> OpenCodeCredentials.load("team").api_keys
        SecretDict('**********')
    """

    _block_type_name = "OpenCode Credentials"
    _block_type_slug = "opencode-credentials"
    _description = "Provider keys for opencode, passed to its environment alone."

    api_keys: SecretDict = Field(
        default_factory=_no_secrets, title="API keys", description="Keys by provider id: {anthropic: sk-…}."
    )
    environment: SecretDict = Field(
        default_factory=_no_secrets, description="Environment variables for opencode, by name."
    )


class OpenCodeAgent(Block):
    """Model, system text, tools and limits under one name.

    A flow names it with the option ``agent``. Options of the flow have precedence. A field of None keeps the
    default of the option of that name.

    Attributes:
        model: Model as ``provider/model``.
        system: System text of the agent.
        agent: Agent of ``opencode_config`` or of opencode's own; None for an agent without tools.
        variant: Variant of the model, such as its reasoning effort.
        opencode_config: opencode config: providers, agents, MCP servers. No secrets.
        mcp_servers: URLs of remote MCP servers by name. The agent may use all their tools.
        answer_schema: JSON Schema of the answer; None for text.
        timeout: Time limit of one attempt, in seconds.
        first_event_timeout: Time limit until the first sign of an answer, in seconds.
        stall_timeout: Time limit without any event after that while no tool runs, in seconds.
        tool_timeout: Time limit of one call of a tool, in seconds.
        max_attempts: Maximum number of attempts of one row.
        max_row_cost: Cost limit of one row, in US dollars.
        credentials: Provider keys; None for the logins and keys of the machine.

    Examples:
        >>> import pandas as pd
        >>> from opencode_tasks import OpenCodeAgent, annotate
        >>> reviewer = OpenCodeAgent(model="anthropic/claude-haiku-4-5", system="Answer with one word.")
        >>> _ = reviewer.save("reviewer", overwrite=True)
        >>> frame = pd.DataFrame({"prompt": ["Is 7 a prime number?"]})
        >>> annotate(frame, agent="reviewer").frame["response"].tolist()
        ['yes']
    """

    _block_type_name = "OpenCode Agent"
    _block_type_slug = "opencode-agent"
    _description = "Model, system text, tools and limits for annotating, under one name."

    model: str | None = Field(
        default=None, description="Model that answers. Default: the model that opencode chooses."
    )
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
    first_event_timeout: float | None = _option("first_event_timeout")
    stall_timeout: float | None = _option("stall_timeout")
    tool_timeout: float | None = _option("tool_timeout")
    max_attempts: int | None = _option("max_attempts")
    max_row_cost: float | None = _option("max_row_cost")
    credentials: OpenCodeCredentials | None = Field(
        default=None, description="Provider keys. Default: the logins and keys of the machine."
    )


def load_block(kind: type[B], name: str) -> B | None:
    """Read a block by its name; None if there is none.

    Raises SetupError if Prefect does not answer, and InputError if the stored block does not fit its
    class.
    """
    try:
        return call_blocking(kind.aload, name)
    except ValidationError as error:
        faults = "; ".join(fault["msg"] for fault in error.errors(include_input=False))
        raise InputError(
            (f"the Prefect block {name!r} does not fit this version: {faults}; save it again",)
        ) from None
    except ValueError:
        return None
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        raise SetupError(
            "unknown",
            raw_message=f"cannot read the Prefect block {name!r}: {type(error).__name__}: {error}",
            hint="check that PREFECT_API_URL names a server that answers",
        ) from None
