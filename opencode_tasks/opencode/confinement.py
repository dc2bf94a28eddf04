"""opencode in a sandbox: the files, the variables and the placeholders for keys that it gets there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.sandbox import RelayCount, SandboxSpec
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.config import PLUGIN, literal_json, merge, merged_config
from opencode_tasks.opencode.credentials import AUTH_CONTENT
from opencode_tasks.opencode.instance_dir import InstanceDir, write_stub
from opencode_tasks.opencode.model_catalogue import PATH_VARIABLE
from opencode_tasks.opencode.secret_values import is_place_name, is_secret_name, secrets_of
from opencode_tasks.opencode.user_config import (
    CONFIG_FILES,
    GLOBAL_CONFIG_NAMES,
    LEFT_OUT,
    expand_references,
    read_user_config,
    user_config_path,
)
from opencode_tasks.sandbox.cell import Cell, passed_variables
from opencode_tasks.sandbox.placeholders import Placeholders
from opencode_tasks.sandbox.relay import INSIDE, Relay
from opencode_tasks.sandbox.view import TEMP, View
from opencode_tasks.system.folders import home, remove_tree

# In the private folder, the copy of ~/.opencode.
OTHER_CONFIG = "other-config"
CONTENT = "OPENCODE_CONFIG_CONTENT"
# Of the clients that sign their requests or fetch tokens with a key.
SIGNING_PREFIXES = ("AWS_", "GOOGLE_", "CLOUDSDK_")
SIGNING_FILES = (".aws", ".config/gcloud")


@dataclass(slots=True)
class Place:
    """Where one process of opencode runs: its cell and its environment.

    ``relay`` is the way of its requests; None outside of a sandbox.
    """

    cell: Cell
    env: Mapping[str, str]
    relay: Relay | None = None

    @property
    def count(self) -> RelayCount | None:
        """The requests that reached the relay; None without one."""
        return None if self.relay is None else self.relay.count

    def notes(self) -> list[str]:
        """Lines for the log about requests that did not pass."""
        if self.relay is None or not self.relay.refused:
            return []
        return [f"the sandbox let no request pass to {', '.join(sorted(self.relay.refused))}"]


@contextlib.asynccontextmanager
async def placed(
    instance_dir: InstanceDir, spec: OpencodeSpec, env: Mapping[str, str], folder: Path
) -> AsyncGenerator[Place]:
    """The place for opencode processes that work in ``folder``; its relay is open in this context.

    ``env`` is the environment outside of a sandbox. Raises SetupError if a file of the user's config cannot
    be copied.
    """
    sandbox = spec.sandbox
    if sandbox is None:
        yield Place(Cell(view=View(temp=instance_dir.run / "tmp", cwd=instance_dir.work)), env)
        return
    placeholders = _placeholders(spec, sandbox)
    try:
        inside = _environment(instance_dir, spec, sandbox, env, placeholders)
    except OSError as error:
        raise SetupError("unknown", raw_message=f"cannot prepare the sandbox: {error}") from error
    relay = Relay(
        sandbox.hosts,
        sandbox.provider_hosts,
        placeholders,
        instance_dir.run,
        takes_other_keys=sandbox.keys_inside,
    )
    async with relay:
        view = _view(instance_dir, spec, sandbox, env, folder, relay)
        yield Place(Cell(view=view, spec=sandbox), inside, relay)


def _placeholders(spec: OpencodeSpec, sandbox: SandboxSpec) -> Placeholders:
    """The placeholders of all secrets, each for the hosts that may get it."""
    config = merge(read_user_config(), spec.config)
    placeholders = Placeholders(_header_names(config))
    if sandbox.keys_inside:
        return placeholders
    environ = {**os.environ, **spec.secrets.environment}
    values = [environ.get(name, "") for name in sandbox.key_variables if not is_place_name(name)]
    for secret in (*secrets_of(spec), *values):
        placeholders.add(secret, sandbox.provider_hosts)
    servers = mapping_in(config.get("mcp"))
    for name, host in sandbox.mcp_hosts:
        text = json.dumps(_expanded(servers.get(name), environ))
        for secret in placeholders.known_in(text):
            placeholders.add(secret, [host])
    return placeholders


def _header_names(config: Mapping[str, Any]) -> set[str]:
    """The headers that the config names, in lower case: of providers, models and MCP servers."""
    found: set[str] = set()
    for name, value in config.items():
        if name == "headers":
            found |= {header.lower() for header in mapping_in(value)}
        elif isinstance(value, Mapping):
            found |= _header_names(mapping_in(value))
    return found


def _environment(
    instance_dir: InstanceDir,
    spec: OpencodeSpec,
    sandbox: SandboxSpec,
    env: Mapping[str, str],
    placeholders: Placeholders,
) -> dict[str, str]:
    """The variables inside. Writes the config, and a copy of the user's config, without secrets."""
    private_home = instance_dir.run / "home"
    # opencode would load what a program of the row has left there.
    for folder in (private_home, *(instance_dir.run / name for name in ("cache", "state"))):
        remove_tree(folder)
        folder.mkdir(mode=0o700)
    inside = passed_variables(sandbox, env)
    inside |= {name: value for name, value in env.items() if name.startswith(("OPENCODE_", "XDG_"))}
    inside |= {name: env[name] for name in sandbox.key_variables if name in env}
    if sandbox.keys_inside:
        inside |= {name: value for name, value in env.items() if name.startswith(SIGNING_PREFIXES)}
        inside = _key_places() | inside
    inside = {
        name: placeholders.hidden(value, is_secret=name in sandbox.key_variables or is_secret_name(name))
        for name, value in inside.items()
    }
    for name in (CONTENT, AUTH_CONTENT):
        if name in env:
            inside[name] = literal_json(placeholders.hidden_json(json.loads(env[name]), is_secret_name))
    config = placeholders.hidden_json(_expanded(merged_config(spec), env), is_secret_name)
    Path(env["OPENCODE_CONFIG"]).write_text(literal_json(config), encoding="utf-8")
    _copy_user_config(instance_dir, env, placeholders)
    return inside | {
        "HOME": str(private_home),
        "TMPDIR": TEMP,
        "OPENCODE_TASKS_RELAY": str(INSIDE),
        # Requests to other hosts leave by the network, if there is one.
        "OPENCODE_TASKS_RELAY_HOSTS": json.dumps(sandbox.hosts) if sandbox.network == "all" else "",
    }


def _copy_user_config(instance_dir: InstanceDir, env: Mapping[str, str], placeholders: Placeholders) -> None:
    """Copy the global config and ``~/.opencode``; JSON files without secrets."""
    target = instance_dir.run / "config" / "opencode"
    for name in CONFIG_FILES:
        (target / name).unlink(missing_ok=True)
    other = instance_dir.run / OTHER_CONFIG
    if not other.exists():
        other.mkdir(mode=0o700)
        write_stub(other)
    for source, folder in ((user_config_path(), target), (home() / ".opencode", other)):
        config = placeholders.hidden_json(_expanded(read_user_config(source), env), is_secret_name)
        if config:
            (folder / "opencode.json").write_text(literal_json(config), encoding="utf-8")
        # opencode writes this file where there is none, and fails in a folder that it cannot write.
        (folder / ".gitignore").touch(mode=0o600)
        for name in GLOBAL_CONFIG_NAMES:
            if (source / name).is_dir():
                shutil.copytree(
                    source / name, folder / name, ignore_dangling_symlinks=True, dirs_exist_ok=True
                )


def _view(
    instance_dir: InstanceDir,
    spec: OpencodeSpec,
    sandbox: SandboxSpec,
    env: Mapping[str, str],
    folder: Path,
    relay: Relay,
) -> View:
    run = instance_dir.run
    instance_dir.journal.touch(mode=0o600)
    writable = [instance_dir.data, instance_dir.journal, folder, *(run / name for name in ("cache", "state"))]
    readable = [run, PLUGIN.parent, spec.binary, *map(Path, sandbox.readable)]
    if (models := env.get(PATH_VARIABLE)) is not None:
        readable.append(Path(models))
    if sandbox.keys_inside:
        readable += _key_files(env)
    mounts = {INSIDE: relay.socket, run / "home" / ".opencode": run / OTHER_CONFIG}
    if (packages := user_config_path() / LEFT_OUT).is_dir():
        mounts[run / "config" / "opencode" / LEFT_OUT] = packages
    return View(
        temp=run / "tmp",
        cwd=folder,
        writable=(*writable, run / "home"),
        readable=tuple(path for path in readable if path.exists()),
        mounts=mounts,
        has_network=sandbox.network == "all",
    )


def _key_files(env: Mapping[str, str]) -> list[Path]:
    named = env.get("GOOGLE_APPLICATION_CREDENTIALS")
    return [*(home() / name for name in SIGNING_FILES), *([Path(named)] if named else [])]


def _key_places() -> dict[str, str]:
    """Where the clients of providers find the files with keys: their own home is another one."""
    aws, google = home() / ".aws", home() / ".config" / "gcloud"
    return {
        "AWS_SHARED_CREDENTIALS_FILE": str(aws / "credentials"),
        "AWS_CONFIG_FILE": str(aws / "config"),
        "CLOUDSDK_CONFIG": str(google),
    }


def _expanded(value: Any, env: Mapping[str, str]) -> Any:
    """A config with the values of its ``{env:NAME}`` and ``{file:PATH}``, which it could not read inside."""
    if isinstance(value, str):
        return expand_references(value, env)
    if isinstance(value, Mapping):
        return {key: _expanded(one, env) for key, one in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [_expanded(one, env) for one in cast("list[Any]", value)]
    return value
