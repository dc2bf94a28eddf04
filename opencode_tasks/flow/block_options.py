"""What the blocks that a run names add to its options, and the secrets in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, TypeVar, cast

import httpx
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings
from pydantic import ValidationError

from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.flow.blocks import OpenCodeAgent, OpenCodeCredentials
from opencode_tasks.flow.job import Job
from opencode_tasks.flow.options import Options
from opencode_tasks.flow.places import ledger_place
from opencode_tasks.opencode.backend import Secrets
from opencode_tasks.opencode.config import merge

B = TypeVar("B", OpenCodeAgent, OpenCodeCredentials)
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


def with_secrets(job: Job) -> Job:
    """The job with the secrets of the block that it names: they are read where they are used."""
    if job.secrets_block is None:
        return job
    return replace(job, spec=replace(job.spec, secrets=secrets_of(job.secrets_block)))


def secrets_of(source: str | None) -> Secrets:
    """The secrets of a block, named ``type/name``; none for None."""
    if source is None:
        return Secrets()
    kind, _, name = source.partition("/")
    if kind == AGENT:
        agent = _load(OpenCodeAgent, name)
        found = agent.credentials if agent else None
    else:
        found = _load(OpenCodeCredentials, name)
    if found is None:
        raise InputError((f"--credentials: there is no Prefect block {source} that has credentials",))
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
    if kind != AGENT and not _has_api():
        return None, agent
    block = _load(OpenCodeAgent, name if kind == AGENT else agent)
    if block is None and kind == AGENT:
        raise InputError((f"--agent: there is no Prefect block {agent}",))
    return block, name


def _has_api() -> bool:
    """Whether there is a Prefect to ask: outside a flow, one that is set."""
    return FlowRunContext.get() is not None or bool(get_current_settings().api.url)


def _load(kind: type[B], name: str) -> B | None:
    """A block by its name; None where there is none."""
    if not _has_api():
        raise SetupError(
            "unknown",
            raw_message=f"the Prefect block {name!r} is asked for, and no Prefect API is set",
            hint="set PREFECT_API_URL",
        )
    try:
        return cast("B", kind.load(name))
    except ValidationError as error:
        words = "; ".join(fault["msg"] for fault in error.errors(include_input=False))
        raise InputError((f"the Prefect block {name!r} does not fit this version: {words}",)) from None
    except ValueError:
        return None
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        raise SetupError(
            "unknown",
            raw_message=f"cannot read the Prefect block {name!r}: {type(error).__name__}: {error}",
            hint="see that PREFECT_API_URL names a server that answers",
        ) from None


def _filled(options: Options, block: OpenCodeAgent) -> Options:
    """The options, with the block's values where they have their defaults."""
    told: dict[str, Any] = {
        "model": block.model,
        "system": block.system,
        "agent": block.agent,
        "variant": block.variant,
        "schema": block.answer_schema,
        "timeout": block.timeout,
        "max_attempts": block.max_attempts,
        "max_row_cost": block.max_row_cost,
    }
    default = {field.name: field.default for field in fields(Options) if field.default is not MISSING}
    free = {name for name in told if getattr(options, name) == default[name]} | {"agent"}
    servers: dict[str, Any] = {
        name: {"type": "remote", "url": url, "enabled": True} for name, url in block.mcp_servers.items()
    }
    config = merge(block.config, {"mcp": servers} if servers else {})
    return replace(
        options,
        **{
            name: value
            for name, value in told.items()
            if name in free and (value is not None or name == "agent")
        },
        opencode_config=merge(config, options.opencode_config),
        mcp_servers=tuple(dict.fromkeys([*options.mcp_servers, *servers])),
    )
