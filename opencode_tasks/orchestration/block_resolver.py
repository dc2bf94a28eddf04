"""Resolver: replaces the names of Prefect blocks in options by what the blocks hold.

Prefect is imported only if a block may be named: that takes seconds.
"""

# ruff: noqa: PLC0415  see above

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.ledger.url import default_ledger
from opencode_tasks.opencode.backend import Secrets
from opencode_tasks.opencode.config import merge
from opencode_tasks.orchestration.context import flow_context
from opencode_tasks.orchestration.prefect_api import configured_api, may_be_configured
from opencode_tasks.plan.options import Options
from opencode_tasks.plan.resolver import ResolvedOptions, is_block_url
from opencode_tasks.settings import settings

if TYPE_CHECKING:
    from prefect.blocks.core import Block

    from opencode_tasks.orchestration.blocks import OpenCodeAgent
    from opencode_tasks.plan.run_spec import RunSpec

B = TypeVar("B", bound="Block")

SECRET_URL = "block://secret/"  # noqa: S105  start of a URL, not a secret
AGENT, CREDENTIALS = "opencode-agent", "opencode-credentials"


class BlockResolver:
    """Resolves blocks through the Prefect API; implements ``plan.resolver.Resolver``."""

    def ledger_url(self, url: str | None) -> str:
        """URL of the ledger; see ``resolve_ledger_url``."""
        return resolve_ledger_url(url)

    def database_url(self, url: str | None) -> str | None:
        """URL of the database of ``sql:`` tables; see ``resolve_database_url``."""
        return resolve_database_url(url)

    def options(self, options: Options) -> ResolvedOptions:
        """Options with the values and secrets of their blocks; see ``resolve_options``."""
        return resolve_options(options)


def resolve_ledger_url(url: str | None) -> str:
    """URL of the ledger that the option names, else of the settings. Raises as ``resolve_options`` does."""
    return _resolve_url(url or default_ledger(), "--ledger")


def resolve_database_url(url: str | None) -> str | None:
    """URL of the database that the option names, else of the settings; None without one.

    Raises as ``resolve_options`` does.
    """
    named = url or settings().database
    return None if named is None else _resolve_url(named, "--database")


def resolve_options(options: Options) -> ResolvedOptions:
    """Options with the values of the agent block that they name, the ledger's URL, and the secrets.

    ``options.agent`` is ``opencode-agent/NAME``, the name of such a block, or else an agent of
    opencode. Options that are given have precedence over the block; their opencode config is merged over
    the config of the block. Raises InputError if a block does not exist or does
    not fit, and SetupError if Prefect does not answer.
    """
    source = f"{CREDENTIALS}/{options.credentials}" if options.credentials else None
    block, name = _agent_block(options.agent)
    if block is not None:
        options = _with_agent(options, block)
        if source is None and block.credentials is not None:
            source = f"{AGENT}/{name}"
    return ResolvedOptions(
        options=replace(options, ledger=resolve_ledger_url(options.ledger)),
        ledger_name=options.ledger,
        secrets=read_secrets(source),
        secrets_block=source,
    )


def with_secrets(run_spec: RunSpec) -> RunSpec:
    """The run spec with the secrets of the block that it names."""
    if run_spec.secrets_block is None:
        return run_spec
    return replace(run_spec, spec=replace(run_spec.spec, secrets=read_secrets(run_spec.secrets_block)))


def without_secrets(run_spec: RunSpec) -> RunSpec:
    """The run spec without secrets, for other processes and for Prefect's API."""
    return replace(run_spec, spec=replace(run_spec.spec, secrets=Secrets()))


def read_credentials(name: str | None) -> Secrets:
    """Secrets of the OpenCodeCredentials block ``name``; no secrets for None."""
    return read_secrets(f"{CREDENTIALS}/{name}" if name else None)


def read_secrets(source: str | None) -> Secrets:
    """Secrets of a block (``type/name``); no secrets for None. Raises as ``resolve_options`` does."""
    if source is None:
        return Secrets()
    from opencode_tasks.orchestration.blocks import OpenCodeAgent, OpenCodeCredentials

    kind, _, name = source.partition("/")
    if kind == AGENT:
        agent = _load(OpenCodeAgent, name)
        credentials = agent.credentials if agent else None
    else:
        credentials = _load(OpenCodeCredentials, name)
    if credentials is None:
        fault = (
            f"--credentials: there is no Prefect block {source} that has credentials; create one in "
            "Prefect's pages under Blocks, or save an OpenCodeCredentials of that name"
        )
        raise InputError((fault,))
    return Secrets(
        api_keys=_plain(credentials.api_keys.get_secret_value()),
        environment=_plain(credentials.environment.get_secret_value()),
    )


def _plain(secret: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in secret.items()}


def _resolve_url(url: str, option: str) -> str:
    """The URL itself, or the text of the Secret block that it names. ``option`` is for messages."""
    if not is_block_url(url):
        return url
    name = url.removeprefix(SECRET_URL)
    if name == url or not name:
        raise InputError((f"{option}: {url}: name a Prefect Secret block: {SECRET_URL}NAME",))
    from prefect.blocks.system import Secret

    block: Any = _load(cast("Any", Secret), name)
    if block is None:
        hint = "create it in Prefect's pages under Blocks"
        raise InputError((f"{option}: there is no Prefect block secret/{name}; {hint}",))
    value = block.get()
    if not isinstance(value, str) or not value:
        raise InputError((f"{option}: the Prefect block secret/{name} holds no text",))
    return value


def _load(kind: type[B], name: str) -> B | None:
    """Read a block; None if there is none. Raises SetupError if no Prefect API is set."""
    from opencode_tasks.orchestration.blocks import load_block

    if not _has_api():
        raise SetupError(
            "unknown",
            raw_message=f"the Prefect block {name!r} is needed, and no Prefect API is set",
            hint="set PREFECT_API_URL",
        )
    return load_block(kind, name)


def _has_api() -> bool:
    """Whether blocks can be read: in a flow, or from an API that the user has configured."""
    if flow_context() is not None:
        return True
    is_loaded = "prefect" in sys.modules
    return (is_loaded or may_be_configured(os.environ, Path.cwd())) and configured_api() is not None


def _agent_block(agent: str | None) -> tuple[OpenCodeAgent | None, str]:
    """The agent block that ``agent`` names, if there is one, and the name of the block."""
    if not agent:
        return None, ""
    name = agent.removeprefix(f"{AGENT}/")
    must_exist = name != agent
    if not must_exist and not _has_api():
        return None, agent
    from opencode_tasks.orchestration.blocks import OpenCodeAgent

    block = _load(OpenCodeAgent, name)
    if block is None and must_exist:
        raise InputError((f"--agent: there is no Prefect block {agent}; see Prefect's pages under Blocks",))
    return block, name


def _with_agent(options: Options, block: OpenCodeAgent) -> Options:
    """Options with the values of the block in place of those that are not given."""
    values: dict[str, Any] = {
        "model": block.model,
        "system": block.system,
        "variant": block.variant,
        "schema": block.answer_schema,
        "timeout": block.timeout,
        "first_event_timeout": block.first_event_timeout,
        "stall_timeout": block.stall_timeout,
        "tool_timeout": block.tool_timeout,
        "max_attempts": block.max_attempts,
        "max_row_cost": block.max_row_cost,
    }
    # Each of these options has None for "not given": no value that a person may give has that meaning.
    used = {name: value for name, value in values.items() if getattr(options, name) is None}
    servers: dict[str, Any] = {
        name: {"type": "remote", "url": url, "enabled": True} for name, url in block.mcp_servers.items()
    }
    config = merge(block.opencode_config, {"mcp": servers} if servers else {})
    return replace(
        options,
        **used,
        agent=block.agent,
        opencode_config=merge(config, options.opencode_config),
        mcp_server=tuple(dict.fromkeys([*options.mcp_server, *servers])),
    )
