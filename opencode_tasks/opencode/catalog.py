"""Catalog of an opencode server: its models, agents and prices, read once before the first row.

Opencode replaces an unknown agent by its default agent, with all tools and without a message, and its
error for an unknown model does not name the model. So agent and model are checked here.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opencode_tasks.domain.attached_file import FileKind
from opencode_tasks.domain.fingerprints import config_without_secrets, digests_by_path
from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.domain.max_cost import MAX_OUTPUT_TOKENS, Price, read_price, thinking_tokens
from opencode_tasks.errors import InputError
from opencode_tasks.opencode.backend import DEFAULT_AGENT, OpencodeSpec
from opencode_tasks.opencode.config import TIMEOUT_OPTIONS, merge
from opencode_tasks.opencode.missing_key import missing_key
from opencode_tasks.opencode.model_catalogue import read_catalogue
from opencode_tasks.opencode.model_prices import find_unpriced, model_prices
from opencode_tasks.opencode.provider_access import ProviderAccess, access_to
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.opencode.tool_names import (
    granted_tools,
    has_tool_of,
    may_change_files,
    name_faults,
    undenied_tools,
)

ALLOW_TOOL = "--allow-tool"
DENY_TOOL = "--deny-tool"
# Keys of an agent's entry that decide no answer.
LOOKS = ("name", "color", "hidden")
# Keys of the default agent's entry that this package writes. Its prompt is in the key as the system text.
DEFAULT_AGENT_KEYS = ("prompt", "permission", "tools", "mode", "description", "disable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Model, agent, settings and prices of a run, as opencode resolved them.

    ``agent_config`` is the entry of the agent in the config of the user. ``settings`` holds the part of
    the config that decides the model's answers, without secrets. Neither has what a version of opencode
    adds by default. ``unpriced`` holds the ``provider/model`` names that have no price; ``price`` is None
    if the model is one of them. ``prices`` are those of all other models. ``max_output_tokens`` is the
    maximum number of output tokens that opencode requests from the model, thinking included;
    ``max_input_tokens`` is the size of its context, None if it is unknown. ``key_variables`` are the names
    of the variables from which opencode reads the keys of the model's provider. ``access`` describes the
    providers of the model and of agents with a model of their own. ``changes_files`` says whether the agent
    may change files or run commands. ``is_named`` is False if neither an option nor the config names the
    model, so that opencode chose it. ``inputs`` are the kinds of files that the model takes; None if unknown.
    ``may_reason``: the model can reason before it answers.
    ``missing_key`` are the variables of which one should hold the key of the model's provider, if opencode
    certainly has no credentials for it; else empty.
    """

    version: str
    model_ref: str
    agent: str
    agent_config: Mapping[str, Any]
    settings: Mapping[str, Any]
    unpriced: frozenset[str]
    price: Price | None
    max_output_tokens: int
    plugin_loaded: bool
    max_input_tokens: int | None = None
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    key_variables: tuple[str, ...] = ()
    access: tuple[ProviderAccess, ...] = ()
    changes_files: bool = False
    is_named: bool = True
    inputs: frozenset[FileKind] | None = None
    may_reason: bool = False
    missing_key: tuple[str, ...] = ()

    @property
    def decided_by(self) -> dict[str, str]:
        """Digests of the values of the config that decide the answers, by their paths in the config."""
        provider, _, model = self.model_ref.partition("/")
        others = dict(self.settings)
        of_provider = mapping_in(others.pop("provider", None))
        models = {model: mapping_in(others.pop("model", None))}
        agents = mapping_in(others.pop("agents", None))
        return digests_by_path(
            {
                "agent": {**agents, self.agent: config_without_secrets(self.agent_config)},
                "provider": {provider: {**of_provider, "models": models}},
                **others,
            }
        )


def named_tools(spec: OpencodeSpec) -> dict[str, Sequence[str]]:
    """The tools that options name, by the option; empty if they name none."""
    named = {ALLOW_TOOL: spec.allowed_tools, DENY_TOOL: spec.denied_tools}
    return {option: names for option, names in named.items() if names}


async def read_catalog(
    server: OpencodeServer,
    *,
    model_ref: str | None,
    agent: str,
    variant: str | None,
    version: str,
    binary: Path,
    allowed: Collection[str] = (),
    named: Mapping[str, Sequence[str]] | None = None,
    max_output_tokens: int = MAX_OUTPUT_TOKENS,
    explicit_config: Mapping[str, Any] | None = None,
    logins: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Catalog:
    """Resolve the model and check agent and variant. ``binary`` is opencode's, which has a catalogue inside.

    ``allowed`` are the tools that the default agent was given, ``named`` those that options name,
    by the option. ``max_output_tokens`` is the maximum number of output tokens that opencode
    requests from any model. ``explicit_config`` is the config that the run was given: opencode drops the
    price tiers in it. ``logins`` are the types of the logins by provider, ``environ`` is opencode's
    environment. Raises InputError with every fault.
    """
    providers: Mapping[str, Any] = await server.get("/config/providers")
    config: Mapping[str, Any] = await server.get("/config")
    agents: Sequence[Mapping[str, Any]] = await server.get("/agent")
    faults: list[str] = []
    resolved = model_ref or default_model(config, providers)
    model: Mapping[str, Any] | None = None
    if resolved is None:
        fix = "configure a provider, or log in with: opencode auth login"
        faults.append(f"--model: opencode has no model; {fix}")
    else:
        fault, model = _find_model(resolved, providers)
        faults += [fault] if fault else []
    found = next((a for a in agents if a.get("name") == agent), None)
    faults += _agent_faults(agent, found, agents)
    if found is not None:
        servers = mapping_in(config.get("mcp"))
        faults += await _tool_faults(server, found, allowed, named or {}, servers)
    if variant and model is not None and variant not in (model.get("variants") or {}):
        known = ", ".join(model.get("variants") or {}) or "none"
        faults.append(f"--variant: model {resolved} has no variant {variant!r} (it has: {known})")
    if faults or resolved is None or found is None or model is None:
        raise InputError(tuple(faults))
    config_with_tiers = merge(config, explicit_config or {})
    listed = [str(one["id"]) for one in list_in(providers.get("providers"))]
    catalogue = await asyncio.to_thread(read_catalogue, binary, listed)
    unpriced = find_unpriced(config_with_tiers, providers, catalogue)
    prices = model_prices(config_with_tiers, providers, catalogue, max_output_tokens)
    limits = read_price(model, max_output_tokens, thinking_tokens=_thinking_tokens(model, found, variant))
    price = prices.get(resolved)
    return Catalog(
        version=version,
        model_ref=resolved,
        agent=agent,
        agent_config=_without_paths(_own_agent(config, agent), str(server.instance_dir.root)),
        settings=_answer_settings(config, resolved) | _agent_settings(config, agent, allowed),
        unpriced=unpriced,
        price=None if price is None else replace(price, max_output_tokens=limits.max_output_tokens),
        prices=prices,
        max_output_tokens=limits.max_output_tokens,
        max_input_tokens=limits.max_input_tokens,
        plugin_loaded=server.plugin_loaded,
        key_variables=_key_variables(resolved, providers),
        access=_access(resolved, agents, providers, logins or {}, environ or {}),
        changes_files=may_change_files(found),
        is_named=resolved in (model_ref, config.get("model")),
        inputs=model_inputs(model),
        may_reason=mapping_in(model.get("capabilities")).get("reasoning") is True,
        missing_key=missing_key(_provider_of(resolved, providers), model, logins or {}, environ or {}),
    )


def model_inputs(model: Mapping[str, Any]) -> frozenset[FileKind] | None:
    """The kinds of files that a model of ``GET /config/providers`` takes; None if opencode does not say.

    A model without ``modalities`` takes texts alone, whatever its ``attachment`` says (opencode 1.18.33).
    """
    accepted = mapping_in(mapping_in(model.get("capabilities")).get("input"))
    if not accepted:
        return None
    kinds: tuple[FileKind, ...] = ("image", "pdf")
    return frozenset(("text", *(kind for kind in kinds if accepted.get(kind) is True)))


def _provider_of(model_ref: str, providers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry of the model's provider in opencode's list."""
    name = model_ref.partition("/")[0]
    return mapping_in(next((one for one in list_in(providers.get("providers")) if one["id"] == name), None))


def _access(
    model_ref: str,
    agents: Sequence[Mapping[str, Any]],
    providers: Mapping[str, Any],
    logins: Mapping[str, str],
    environ: Mapping[str, str],
) -> tuple[ProviderAccess, ...]:
    """The access to the providers of the model and of the agents with models of their own."""
    provider, _, model = model_ref.partition("/")
    models: dict[str, list[str]] = {provider: [model]}
    for own in (mapping_in(agent.get("model")) for agent in agents):
        if own:
            models.setdefault(str(own.get("providerID")), []).append(str(own.get("modelID")))
    listed = {str(one.get("id")): one for one in map(mapping_in, list_in(providers.get("providers")))}
    return tuple(
        access_to(listed[name], names, logins.get(name), environ)
        for name, names in models.items()
        if name in listed
    )


def _key_variables(model_ref: str, providers: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the variables with the keys of the model's provider, as opencode lists them."""
    return tuple(map(str, list_in(_provider_of(model_ref, providers).get("env"))))


def _thinking_tokens(model: Mapping[str, Any], agent: Mapping[str, Any], variant: str | None) -> int:
    """Tokens for thinking by the options of model, agent and variant, in the precedence of opencode."""
    of_variant = mapping_in(model.get("variants")).get(variant or "")
    return thinking_tokens(
        *(mapping_in(one) for one in (model.get("options"), agent.get("options"), of_variant))
    )


def default_model(config: Mapping[str, Any], providers: Mapping[str, Any]) -> str | None:
    """Model that opencode uses if none is named: that of the config, else the default of a provider.

    None if no configured provider has a model.
    """
    if (named := text_in(config.get("model"))) is not None:
        return named
    own = mapping_in(config.get("provider"))
    defaults = mapping_in(providers.get("default"))
    for provider in list_in(providers.get("providers")):
        name: str = provider["id"]
        if (not own or name in own) and defaults.get(name):
            return f"{name}/{defaults[name]}"
    return None


def _find_model(ref: str, providers: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any] | None]:
    known: dict[str, Mapping[str, Any]] = {
        p["id"]: mapping_in(p.get("models")) for p in list_in(providers.get("providers"))
    }
    provider, slash, model = ref.partition("/")
    if not slash or not provider or not model:
        return f"--model: {ref!r} is not of the form provider/model", None
    if provider not in known:
        names = ", ".join(sorted(known)) or "none"
        fault = f"--model: opencode has no provider {provider!r} (it has: {names})"
        return f"{fault}; configure the provider or set its API key", None
    if model in known[provider]:
        return None, known[provider][model]
    close = difflib.get_close_matches(model, known[provider], n=3) or sorted(known[provider])[:5]
    hint = ", ".join(f"{provider}/{name}" for name in close)
    return f"--model: provider {provider!r} has no model {model!r}; there is: {hint}", None


def _agent_faults(
    agent: str, found: Mapping[str, Any] | None, agents: Sequence[Mapping[str, Any]]
) -> list[str]:
    if found is not None and found.get("mode") != "subagent":
        return []
    choosable = [a["name"] for a in agents if a.get("mode") != "subagent" and not a.get("hidden")]
    names = ", ".join(sorted(choosable))
    reason = "is a sub-agent, which cannot answer a prompt" if found else "is not known to opencode"
    return [f"--agent: {agent!r} {reason} (there is: {names})"]


async def _tool_faults(
    server: OpencodeServer,
    agent: Mapping[str, Any],
    allowed: Collection[str],
    named: Mapping[str, Sequence[str]],
    mcp_servers: Iterable[str],
) -> list[str]:
    """Names of tools that opencode does not know; without any, the tools that the agent has against them."""
    faults: list[str] = []
    if named:
        ids = await server.get("/experimental/tool/ids")
        faults = [fault for option in named for fault in name_faults(option, named[option], ids, mcp_servers)]
    if faults:
        return faults
    name = str(agent.get("name"))
    if left := undenied_tools(agent, named.get(DENY_TOOL, ())):
        faults.append(
            f"{DENY_TOOL}: a later rule of the agent {name!r} allows {', '.join(left)}; put its rule for '*' "
            "before its other rules"
        )
    if name == DEFAULT_AGENT and (extra := granted_tools(agent, allowed)):
        faults.append(
            f"opencode config: it gives the agent {name!r} the tools {', '.join(extra)}; that agent is "
            f"reserved: name its tools with {ALLOW_TOOL}, or define an agent and choose it with --agent"
        )
    return faults


def _without_paths(agent: Mapping[str, Any], instance_dir: str) -> dict[str, Any]:
    """The agent config with the instance directory replaced, which differs between processes."""
    text = json.dumps({key: value for key, value in agent.items() if value is not None})
    return json.loads(text.replace(json.dumps(instance_dir)[1:-1], "~"))


def _own_agent(config: Mapping[str, Any], agent: str) -> dict[str, Any]:
    """The entry of an agent in the config; of the default agent, only what the user added to it."""
    entry = mapping_in(mapping_in(config.get("agent")).get(agent))
    left_out = (*LOOKS, *DEFAULT_AGENT_KEYS) if agent == DEFAULT_AGENT else LOOKS
    # Versions differ in the empty values that they add.
    return {key: value for key, value in entry.items() if key not in left_out and value not in ({}, [], None)}


def _agent_settings(config: Mapping[str, Any], agent: str, allowed: Collection[str]) -> dict[str, Any]:
    """Parts of an agent outside of its entry: MCP servers, sub-agents, permissions, instructions.

    The default agent has the MCP servers of its ``allowed`` tools only, unless it may start sub-agents.
    """
    clean = config_without_secrets(config)
    servers = {
        name: server
        for name, server in mapping_in(clean.get("mcp")).items()
        if mapping_in(server).get("enabled") is not False
    }
    if agent == DEFAULT_AGENT and "task" not in allowed:
        named = {name: server for name, server in servers.items() if has_tool_of(name, allowed)}
        return {"mcp": named} if named else {}
    agents = {
        name: entry
        for name, entry in mapping_in(clean.get("agent")).items()
        if name not in (agent, DEFAULT_AGENT) and mapping_in(entry).get("mode") in ("subagent", "all")
    }
    shared = {name: clean[name] for name in ("permission", "tools", "instructions") if clean.get(name)}
    return {"mcp": servers, "agents": agents, **shared}


def _answer_settings(config: Mapping[str, Any], model_ref: str) -> dict[str, Any]:
    """Settings of the model, without secrets and time-outs."""
    provider, _, model = model_ref.partition("/")
    clean = config_without_secrets(config)
    own = mapping_in(mapping_in(clean.get("provider")).get(provider))
    options = {k: v for k, v in mapping_in(own.get("options")).items() if k not in TIMEOUT_OPTIONS}
    settings = mapping_in(mapping_in(own.get("models")).get(model))
    return {
        "provider": {"npm": own.get("npm"), "options": options},
        "model": {key: value for key, value in settings.items() if key not in ("name", "cost")},
    }
