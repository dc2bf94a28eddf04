"""The opencode config of a run: defaults, the user's config over them, fixed keys over both. Pure."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import json5

from opencode_tasks.domain.json_values import mapping_in, text_in
from opencode_tasks.domain.max_cost import MAX_OUTPUT_TOKENS
from opencode_tasks.domain.records import RemoteTool
from opencode_tasks.errors import InputError
from opencode_tasks.opencode.backend import DEFAULT_AGENT, DEFAULT_SYSTEM, Clocks, OpencodeSpec
from opencode_tasks.opencode.tool_names import permission_of, tool_prefix
from opencode_tasks.system.text_file import read_text_file

PLUGIN = Path(__file__).parent / "plugin" / "opencode-tasks.js"
# The clocks of the backend end a silent call. The limits of opencode are longer, because it would retry.
MAX_TIMER_MS = 2**31 - 1
TIMEOUT_MARGIN_S = 30.0
MAX_CONFIG_SYSTEM_BYTES = 10_000
TIMEOUT_OPTIONS = ("timeout", "headerTimeout", "chunkTimeout")


def default_config(spec: OpencodeSpec) -> dict[str, Any]:
    """Defaults that the user's config can change: few features, and time limits that fit the clocks.

    The plugin sets the same limits for the providers of the user's global config.
    """
    config: dict[str, Any] = {"snapshot": False, "lsp": False, "formatter": False}
    if spec.agent == DEFAULT_AGENT and not spec.allowed_tools:
        # A single prompt that is too long does not get shorter by a summary.
        config["compaction"] = {"auto": False, "prune": False}
    providers = {*mapping_in(spec.config.get("provider")), *spec.secrets.api_keys}
    if model_ref := spec.model_ref or text_in(spec.config.get("model")):
        providers.add(model_ref.partition("/")[0])
    config["provider"] = {name: {"options": provider_limits(spec.clocks)} for name in sorted(providers)}
    return config


def fixed_config(spec: OpencodeSpec) -> dict[str, Any]:
    """Keys that override the user's config."""
    allowed = dict.fromkeys(allowed_tools(spec), True)
    # Each request carries its system text. A variable of the environment has at most 131,072 bytes.
    is_long = len(spec.system.encode("utf-8", "replace")) > MAX_CONFIG_SYSTEM_BYTES
    config: dict[str, Any] = {
        "share": "disabled",
        "autoupdate": False,
        "agent": {
            DEFAULT_AGENT: {
                "mode": "primary",
                "prompt": DEFAULT_SYSTEM if is_long else spec.system,
                "tools": {"*": False, **allowed},
            }
        },
    }
    if denied := {permission_of(name): "deny" for name in spec.denied_tools}:
        # The rules of the config are those of sub-agents without own ones.
        config["permission"] = denied
        config["agent"].setdefault(spec.agent, {})["permission"] = denied
    if spec.tools:
        config["mcp"] = {tool.name: _mcp(tool) for tool in spec.tools}
    if spec.use_plugin:
        config["plugin"] = [f"file://{PLUGIN}"]
    return config


def literal_json(config: Mapping[str, Any]) -> str:
    """The JSON of a config in which opencode replaces nothing: it would read ``{file:…}`` and ``{env:…}``.

    In JSON, such a text can only occur inside a string, where the escaped brace is the same character.
    """
    return re.sub(r"\{(?=file:|env:)", r"\\u007b", json.dumps(config))


def allowed_tools(spec: OpencodeSpec) -> list[str]:
    """The tools of the default agent: those of the named MCP servers, and those that are named."""
    names = [*(tool.name for tool in spec.tools), *spec.mcp_servers]
    return [*(f"{tool_prefix(name)}_*" for name in names), *spec.allowed_tools]


def merged_config(spec: OpencodeSpec) -> dict[str, Any]:
    """The defaults with the user's config over them."""
    return merge(default_config(spec), spec.config)


def read_config(path: Path, option: str) -> dict[str, Any]:
    """Read an opencode config file, with or without comments. Raises InputError that names ``option``."""
    try:
        text = read_text_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError((f"{option}: cannot read {path}: {error}",)) from None
    try:
        loaded = _loads(text)
    except ValueError as error:
        raise InputError((f"{option}: {path} is not JSON: {str(error).splitlines()[0]}",)) from None
    if not isinstance(loaded, dict):
        raise InputError((f"{option}: {path} must hold a JSON object",))
    return absolute_files(loaded, path.resolve().parent)


def config_in_force(explicit: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The explicit config over the one in opencode's environment variables.

    The config of a run is passed to opencode in the same variables, so the user's values are merged here.
    """
    config: dict[str, Any] = {}
    if environ.get("OPENCODE_CONFIG"):
        config = read_config(Path(environ["OPENCODE_CONFIG"]), "OPENCODE_CONFIG")
    if environ.get("OPENCODE_CONFIG_CONTENT"):
        try:
            content = _loads(environ["OPENCODE_CONFIG_CONTENT"])
        except ValueError as error:
            raise InputError((f"OPENCODE_CONFIG_CONTENT is not JSON: {error}",)) from None
        config = merge(config, mapping_in(content))
    return merge(config, explicit)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return cast("Any", json5).loads(text)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings; ``over`` has precedence. Nested mappings are merged, lists are replaced."""
    result = copy.deepcopy(dict(under))
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            result[key] = merge(mapping_in(below), mapping_in(value))
        else:
            result[key] = copy.deepcopy(value)
    return result


def absolute_files(value: Any, folder: Path) -> Any:
    """The config with absolute ``{file:…}`` references, since it is used from another directory."""
    if isinstance(value, Mapping):
        return {key: absolute_files(inner, folder) for key, inner in mapping_in(value).items()}
    if isinstance(value, list):
        return [absolute_files(inner, folder) for inner in cast("list[Any]", value)]
    if isinstance(value, str):
        return re.sub(r"\{file:(?![/~])([^}]+)\}", lambda m: f"{{file:{(folder / m[1]).resolve()}}}", value)
    return value


def max_output_tokens(environ: Mapping[str, str]) -> int:
    """Maximum output tokens that opencode requests from any model, from its environment variable."""
    value = environ.get("OPENCODE_EXPERIMENTAL_OUTPUT_TOKEN_MAX", "")
    return int(value) if value.isdecimal() and int(value) else MAX_OUTPUT_TOKENS


def provider_limits(clocks: Clocks) -> dict[str, Any]:
    """Options of a provider that replace opencode's time limits of 300 seconds."""
    first_event_s, stall_s = (min(s, clocks.total_s) for s in (clocks.first_event_s, clocks.stall_s))
    return {
        "timeout": _ms(clocks.total_s),
        "headerTimeout": _ms(first_event_s),
        # It also limits the time between the headers and the first token.
        "chunkTimeout": _ms(max(first_event_s, stall_s)),
    }


def _ms(seconds: float) -> int:
    # A timer of JavaScript with a longer time ends at once.
    return min(int((seconds + TIMEOUT_MARGIN_S) * 1000), MAX_TIMER_MS)


def _mcp(tool: RemoteTool) -> dict[str, Any]:
    return {"type": "remote", "url": f"http://{tool.hostname}:{tool.port}/{tool.name}/mcp", "enabled": True}
