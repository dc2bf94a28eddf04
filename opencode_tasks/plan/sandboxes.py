"""Sandbox of a run: whether its rows need one, whether it can be made, and what is let into it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opencode_tasks.domain.json_values import mapping_in, text_in
from opencode_tasks.domain.sandbox import SandboxSpec
from opencode_tasks.errors import InputError
from opencode_tasks.opencode.backend import DEFAULT_AGENT, OpencodeSpec
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.config import merge
from opencode_tasks.opencode.provider_access import host_of
from opencode_tasks.opencode.user_config import expand_references, read_user_config
from opencode_tasks.plan.option_signatures import ANNOTATE
from opencode_tasks.plan.options import Options
from opencode_tasks.sandbox.cell import sandbox_problem
from opencode_tasks.settings import settings

PROCESS_BACKEND = "cli"
NO_SANDBOX = (
    "--sandbox: the agent may change files or run commands, and {problem}; or give --sandbox none to let it "
    "work with all rights of your user"
)


def sandbox_of(options: Options, spec: OpencodeSpec, catalog: Catalog | None) -> SandboxSpec | None:
    """The sandbox of the rows of a run; None if they have none.

    Raises InputError if it is needed and cannot be made.
    """
    if catalog is None or not _is_wanted(options, catalog):
        return None
    kind = options.sandbox or "bwrap"
    assert kind != "none"
    # Workers on other machines try it too; the answer for this one is known before anything is sent.
    if options.sandbox is None and (problem := sandbox_problem(kind)) is not None:
        raise InputError((NO_SANDBOX.format(problem=problem),))
    if faults := _access_faults(options, catalog):
        raise InputError(tuple(faults))
    known = settings()
    allowed = tuple(filter(None, map(_host, options.allow_host)))
    return SandboxSpec(
        kind=kind,
        network=options.network,
        # A provider without a known address is behind a host that the user names.
        provider_hosts=tuple(host for one in catalog.access for host in one.hosts or allowed),
        mcp_hosts=() if options.network == "none" else tuple(_mcp_hosts(options, spec)),
        other_hosts=allowed,
        key_variables=tuple(dict.fromkeys(name for one in catalog.access for name in one.variables)),
        keys_inside=options.keys_in_sandbox,
        readable=tuple(str(Path(path).expanduser().absolute()) for path in options.sandbox_read),
        variables=tuple(options.sandbox_env),
        processes=known.sandbox_processes,
        memory_bytes=known.sandbox_memory_bytes,
        file_bytes=known.sandbox_file_bytes,
        files=known.max_workspace_files,
        size_bytes=known.max_workspace_bytes,
    )


def _is_wanted(options: Options, catalog: Catalog) -> bool:
    if options.sandbox is not None:
        return options.sandbox != "none"
    if options.has_workspace:
        return True
    # A server that is asked for by its name serves all rows, so it is in no sandbox.
    return catalog.changes_files and options.backend in (None, PROCESS_BACKEND)


def sandbox_faults(options: Options) -> list[str]:
    """Faults of the options of sandboxes alone."""
    if options.sandbox == "none":
        return [
            f"{option.flag}: there is no sandbox with --sandbox none; remove one of the options"
            for name, option in ANNOTATE.items()
            if option.info.group == "Sandbox"
            and name != "sandbox"
            and not option.is_default(getattr(options, name))
        ]
    faults: list[str] = []
    if options.sandbox is not None and options.backend not in (None, PROCESS_BACKEND):
        faults.append(
            f"--sandbox: the backend {options.backend} has no sandbox for each row; leave --backend out, "
            f"which chooses {PROCESS_BACKEND}"
        )
    faults += [
        f"--allow-host: {text!r} is no name of a host, such as gateway.example.com or 10.0.0.5:8080"
        for text in options.allow_host
        if _host(text) is None
    ]
    faults += [
        f"--sandbox-read: there is no file or folder {path}"
        for path in options.sandbox_read
        if not Path(path).expanduser().exists()
    ]
    faults += [
        f"--sandbox-env: {name!r} is no name of a variable; its value is taken from the environment"
        for name in options.sandbox_env
        if not name or "=" in name
    ]
    return faults


def _access_faults(options: Options, catalog: Catalog) -> list[str]:
    """Why the providers cannot be reached from a sandbox with these options."""
    faults: list[str] = []
    for one in catalog.access:
        if not one.hosts and not options.allow_host:
            faults.append(
                f"--sandbox: the address of the provider {one.name} is not known; name its host with "
                "--allow-host"
            )
        if one.has_login:
            faults.append(
                f"--sandbox: opencode renews the login at {one.name} in your store of logins, which a "
                "sandbox must not change; use an API key, or give --sandbox none"
            )
        if one.signs and not options.keys_in_sandbox:
            faults.append(
                f"--sandbox: opencode signs the requests to {one.name} with the key itself, which would be "
                "in the sandbox, where programs can read it; allow that with --keys-in-sandbox, or use an "
                "API key"
            )
    return faults


def _host(text: str) -> str | None:
    """``host:port`` of a host with or without a port; None if the text is none."""
    if "/" in text or text != text.strip() or not text:
        return None
    found = host_of(f"https://{text}")
    return found if found is not None and not found.startswith(":") else None


def _mcp_hosts(options: Options, spec: OpencodeSpec) -> list[tuple[str, str]]:
    """The hosts of the MCP servers that the agent may use, with the names of the servers."""
    found = [(tool.name, f"{tool.hostname}:{tool.port}") for tool in spec.tools]
    config = merge(read_user_config(), spec.config)
    environ: Mapping[str, str] = {**os.environ, **spec.secrets.environment}
    for name, server in mapping_in(config.get("mcp")).items():
        is_used = options.agent not in (None, DEFAULT_AGENT) or name in spec.mcp_servers
        url: Any = text_in(mapping_in(server).get("url"))
        if is_used and url and (host := host_of(expand_references(url, environ))) is not None:
            found.append((name, host))
    return found
