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
from opencode_tasks.opencode.credentials import AUTH_CONTENT, user_store
from opencode_tasks.opencode.instance_dir import GLOBAL_CONFIG_NAMES, InstanceDir, user_config_path
from opencode_tasks.opencode.secret_values import is_place_name, secrets_of
from opencode_tasks.opencode.user_config import (
    CONFIG_FILES,
    LEFT_OUT,
    MANAGED_CONFIG,
    expand_references,
    read_user_config,
)
from opencode_tasks.sandbox.cell import Cell, passed_variables
from opencode_tasks.sandbox.placeholders import Placeholders
from opencode_tasks.sandbox.relay import INSIDE, Relay
from opencode_tasks.sandbox.view import TEMP, View
from opencode_tasks.system.folders import home

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
    async with Relay(sandbox.hosts, sandbox.provider_hosts, placeholders, instance_dir.run) as relay:
        view = _view(instance_dir, spec, sandbox, env, folder, relay)
        yield Place(Cell(view=view, spec=sandbox), inside, relay)


def _placeholders(spec: OpencodeSpec, sandbox: SandboxSpec) -> Placeholders:
    """The placeholders of all secrets, each for the hosts that may get it."""
    placeholders = Placeholders()
    if sandbox.keys_inside:
        return placeholders
    environ = {**os.environ, **spec.secrets.environment}
    values = [environ.get(name, "") for name in sandbox.key_variables if not is_place_name(name)]
    for secret in (*secrets_of(spec), *values):
        placeholders.add(secret, sandbox.provider_hosts)
    servers = mapping_in(merge(read_user_config(), spec.config).get("mcp"))
    for name, host in sandbox.mcp_hosts:
        text = json.dumps(_expanded(servers.get(name), environ))
        for secret in placeholders.known_in(text):
            placeholders.add(secret, [host])
    return placeholders


def _environment(
    instance_dir: InstanceDir,
    spec: OpencodeSpec,
    sandbox: SandboxSpec,
    env: Mapping[str, str],
    placeholders: Placeholders,
) -> dict[str, str]:
    """The variables inside. Writes the config, and a copy of the user's config, without secrets."""
    private_home = instance_dir.run / "home"
    private_home.mkdir(mode=0o700, exist_ok=True)
    inside = passed_variables(sandbox, env)
    inside |= {name: value for name, value in env.items() if name.startswith(("OPENCODE_", "XDG_"))}
    inside |= {name: env[name] for name in sandbox.key_variables if name in env}
    if sandbox.keys_inside:
        inside |= {name: value for name, value in env.items() if name.startswith(SIGNING_PREFIXES)}
    inside = {name: placeholders.hidden(value) for name, value in inside.items()}
    for name in (CONTENT, AUTH_CONTENT):
        if name in env:
            inside[name] = literal_json(placeholders.hidden_json(json.loads(env[name])))
    config = placeholders.hidden_json(_expanded(merged_config(spec), env))
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
    """Copy the global config, ``~/.opencode`` and the managed config; JSON files without secrets."""
    target = instance_dir.run / "config" / "opencode"
    for name in CONFIG_FILES:
        (target / name).unlink(missing_ok=True)
    merged = placeholders.hidden_json(_expanded(read_user_config(), env))
    if merged:
        (target / "opencode.json").write_text(literal_json(merged), encoding="utf-8")
    other = instance_dir.run / "home" / ".opencode"
    for source, folder in ((user_config_path(), target), (home() / ".opencode", other)):
        if folder.is_dir() or source.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
            # opencode writes this file where there is none, and fails in a folder that it cannot write.
            (folder / ".gitignore").touch(mode=0o600)
        for name in GLOBAL_CONFIG_NAMES:
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name, symlinks=True, dirs_exist_ok=True)


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
    if (models := env.get("OPENCODE_MODELS_PATH")) is not None:
        readable.append(Path(models))
    if sandbox.keys_inside:
        readable += _key_files(env)
        if (instance_dir.data / "opencode" / "auth.json").is_symlink():
            writable.append(user_store())
    mounts = {INSIDE: relay.socket}
    if MANAGED_CONFIG.is_dir():
        mounts[MANAGED_CONFIG] = MANAGED_CONFIG
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


def _expanded(value: Any, env: Mapping[str, str]) -> Any:
    """A config with the values of its ``{env:NAME}`` and ``{file:PATH}``, which it could not read inside."""
    if isinstance(value, str):
        return expand_references(value, env)
    if isinstance(value, Mapping):
        return {key: _expanded(one, env) for key, one in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [_expanded(one, env) for one in cast("list[Any]", value)]
    return value
