"""What the blocks that a run names add to its options, and the secrets in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from opencode_tasks.errors import InputError
from opencode_tasks.opencode.backend import Secrets
from opencode_tasks.opencode.config import merge
from opencode_tasks.orchestration.block_store import has_api, load_block
from opencode_tasks.orchestration.block_urls import ledger_place
from opencode_tasks.orchestration.blocks import OpenCodeAgent, OpenCodeCredentials
from opencode_tasks.plan.options import Options
from opencode_tasks.plan.run_spec import RunSpec

AGENT, CREDENTIALS = "opencode-agent", "opencode-credentials"


def with_blocks(options: Options) -> tuple[Options, Secrets, str | None]:
    """The options with those of the agent block that they name, the secrets, and the block of these.

    The ledger is named in the options then.

    ``options.agent`` is ``opencode-agent/NAME``, the name of such a block, or else an agent of
    opencode's. What the options say themselves wins; their config lies over the block's. Raises
    InputError where a block is not there, SetupError where Prefect's API does not answer.
    """
    block, name = _agent_block(options.agent)
    source = f"{CREDENTIALS}/{options.credentials}" if options.credentials else None
    if block is not None:
        options = _filled(options, block)
        if source is None and block.credentials is not None:
            source = f"{AGENT}/{name}"
    options = replace(options, ledger=ledger_place(options.ledger))
    return options, secrets_of(source), source


def with_secrets(run_spec: RunSpec) -> RunSpec:
    """The job with the secrets of the block that it names: they are read where they are used."""
    if run_spec.secrets_block is None:
        return run_spec
    return replace(run_spec, spec=replace(run_spec.spec, secrets=secrets_of(run_spec.secrets_block)))


def secrets_of(source: str | None) -> Secrets:
    """The secrets of a block, named ``type/name``; none for None."""
    if source is None:
        return Secrets()
    kind, _, name = source.partition("/")
    if kind == AGENT:
        agent = load_block(OpenCodeAgent, name)
        found = agent.credentials if agent else None
    else:
        found = load_block(OpenCodeCredentials, name)
    if found is None:
        told = "make one in Prefect's pages under Blocks, or save an OpenCodeCredentials of that name"
        raise InputError((f"--credentials: there is no Prefect block {source} that has credentials; {told}",))
    return Secrets(
        api_keys=_plain(found.api_keys.get_secret_value()),
        environment=_plain(found.environment.get_secret_value()),
    )


def _plain(secret: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in secret.items()}


def _agent_block(agent: str | None) -> tuple[OpenCodeAgent | None, str]:
    """The agent block that is meant, if one is, and its name."""
    if not agent:
        return None, ""
    kind, _, name = agent.rpartition("/")
    if kind != AGENT and not has_api():
        return None, agent
    block = load_block(OpenCodeAgent, name if kind == AGENT else agent)
    if block is None and kind == AGENT:
        raise InputError((f"--agent: there is no Prefect block {agent}; see Prefect's pages under Blocks",))
    return block, name


def _filled(options: Options, block: OpenCodeAgent) -> Options:
    """The options, with the block's values where they have their defaults."""
    told: dict[str, Any] = {
        "model": block.model,
        "system": block.system,
        "variant": block.variant,
        "schema": block.answer_schema,
        "timeout": block.timeout,
        "max_attempts": block.max_attempts,
        "max_row_cost": block.max_row_cost,
    }
    default = {field.name: field.default for field in fields(Options)}
    free = {
        name: value
        for name, value in told.items()
        if value is not None and getattr(options, name) == default[name]
    }
    servers: dict[str, Any] = {
        name: {"type": "remote", "url": url, "enabled": True} for name, url in block.mcp_servers.items()
    }
    config = merge(block.opencode_config, {"mcp": servers} if servers else {})
    return replace(
        options,
        **free,
        agent=block.agent,
        opencode_config=merge(config, options.opencode_config),
        mcp_server=tuple(dict.fromkeys([*options.mcp_server, *servers])),
    )
