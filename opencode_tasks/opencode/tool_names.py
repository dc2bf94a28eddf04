"""Names of tools in opencode: which are known, and which an agent may use. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in

# Opencode has one permission for the tools that change files.
EDIT_TOOLS = frozenset(("edit", "write", "apply_patch"))
# Tools of its list that no option can name: one for calls of unknown tools, one that asks the user.
NOT_NAMED = frozenset(("invalid", "question"))


def tool_prefix(name: str) -> str:
    """The beginning of the names that opencode gives to the tools of an MCP server."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)


def permission_of(tool: str) -> str:
    """The name of a tool in opencode's permission rules."""
    return "edit" if tool in EDIT_TOOLS else tool


def name_faults(option: str, names: Iterable[str], tools: Iterable[str], servers: Iterable[str]) -> list[str]:
    """One line for each name that is neither a tool of opencode nor one of an MCP server.

    ``tools`` are the tools that opencode lists, ``servers`` the names of its MCP servers, whose tools are not
    in that list: a name that begins as theirs do counts as known.
    """
    known = sorted(set(tools) - NOT_NAMED)
    prefixes = [f"{tool_prefix(server)}_" for server in servers]
    patterns = [*known, *(f"{prefix}*" for prefix in prefixes)]
    faults: list[str] = []
    for name in names:
        if name in known or name.startswith(tuple(prefixes)):
            continue
        close = difflib.get_close_matches(name, patterns, n=3) or patterns
        faults.append(f"{option}: opencode has no tool {name!r}; there is: {', '.join(close)}")
    return faults


def has_tool_of(server: str, names: Iterable[str]) -> bool:
    """Whether one of the names or patterns is that of tools of an MCP server."""
    return any(name.startswith(f"{tool_prefix(server)}_") for name in names)


def granted_tools(agent: Mapping[str, Any], allowed: Collection[str]) -> list[str]:
    """Permissions of an agent beyond those of ``allowed``: granted after the rule that denies all."""
    rules = _rules(agent)
    denials = [
        i for i, rule in enumerate(rules) if (rule.get("permission"), rule.get("action")) == ("*", "deny")
    ]
    after = rules[denials[-1] + 1 :] if denials else rules
    granted = {str(rule.get("permission")) for rule in after if rule.get("action") != "deny"}
    return sorted(granted - {permission_of(name) for name in allowed} - {"external_directory"})


def may_change_files(agent: Mapping[str, Any]) -> bool:
    """Whether the rules of an agent allow it to change files, run commands, or start other agents.

    A rule that asks a person counts as a denial: nobody is asked.
    """
    rules = _rules(agent)
    return any(_is_allowed(rules, name) for name in ("edit", "bash", "task"))


def _is_allowed(rules: Sequence[Mapping[str, Any]], permission: str) -> bool:
    """Whether a rule allows the permission in some case, and no later one denies it in all."""
    allowed = False
    for rule in rules:
        if not fnmatchcase(permission, str(rule.get("permission"))):
            continue
        if rule.get("action") == "allow":
            allowed = True
        elif rule.get("pattern") == "*":
            allowed = False
    return allowed


def undenied_tools(agent: Mapping[str, Any], denied: Iterable[str]) -> list[str]:
    """The tools of ``denied`` that a later rule of the agent allows: in opencode the last rule counts."""
    return [name for name in denied if not _is_denied(_rules(agent), permission_of(name))]


def _is_denied(rules: Sequence[Mapping[str, Any]], permission: str) -> bool:
    matching = [rule for rule in rules if fnmatchcase(permission, str(rule.get("permission")))]
    return bool(matching) and (matching[-1].get("pattern"), matching[-1].get("action")) == ("*", "deny")


def _rules(agent: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [mapping_in(rule) for rule in list_in(agent.get("permission"))]
