"""Starting early what takes seconds: opencode, a Prefect server and Ray, while modules are loaded."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opencode_tasks.opencode.backend import OpencodeSpec
    from opencode_tasks.orchestration.local_server import LocalServer
    from opencode_tasks.orchestration.ray import EarlyRay

API_URL = "PREFECT_API_URL"
# What of the options decides which opencode is started.
DECIDING = ("model", "system", "agent", "mcp_servers", "timeout", "work_dir", "opencode_bin")


@dataclass(frozen=True, slots=True)
class Early:
    """What was started; None for what was not."""

    prefect: LocalServer | None
    ray: EarlyRay | None


@contextmanager
def started_early(
    source: str, options: Mapping[str, Any], base_config: Mapping[str, Any], *, dry_run: bool
) -> Generator[Early]:
    """Start what these options will want, in the background; the context ends it.

    What is wrong with the options is told where they are checked, and what does not start where it
    is wanted; nothing is asked of a provider here.
    """
    from opencode_tasks.opencode.server_pool import server_pool

    with ExitStack() as stack:
        # An input that is not there is told soon, and needs none of these.
        is_run = not dry_run and (":" in source or Path(source).exists())
        prefect = _start_prefect(stack) if is_run else None
        # With a block's keys it would be another server.
        spec = None if options.get("credentials") else _spec(options, base_config)
        # A worker has the Prefect API's address from the environment in which Ray was started.
        is_own_ray = options.get("runner") == "ray" and options.get("ray_address") is None
        ray = None
        if is_run and is_own_ray and spec is not None and API_URL in os.environ:
            in_worker = options.get("backend") == "server" and _may_have_many(spec)
            ray = _start_ray(stack, spec, options.get("variant"), in_worker=in_worker)
            if in_worker:
                server_pool.expect(spec, options.get("variant"), ray.catalog)
                spec = None
        if spec is not None and options.get("backend") != "null":
            Thread(target=_start_opencode, args=(spec,), daemon=True).start()
        yield Early(prefect, ray)


def _start_prefect(stack: ExitStack) -> LocalServer | None:
    from opencode_tasks.orchestration.local_server import LocalServer, announce, may_be_configured

    if may_be_configured(os.environ, Path.cwd()):
        return None
    server = LocalServer.start()
    stack.callback(server.stop)
    announce(server)
    stack.callback(os.environ.pop, API_URL, None)
    Thread(target=_wait_for, args=(server,), daemon=True).start()
    return server


def _wait_for(server: LocalServer) -> None:
    # Where it is wanted, its failure is told.
    with suppress(Exception):
        server.wait()


def _start_ray(stack: ExitStack, spec: OpencodeSpec, variant: str | None, *, in_worker: bool) -> EarlyRay:
    from opencode_tasks.orchestration.ray import EarlyRay, ray_folder

    ray = EarlyRay(stack.enter_context(ray_folder()), (spec, variant) if in_worker else None)
    stack.callback(ray.end)
    return ray


def _spec(options: Mapping[str, Any], base_config: Mapping[str, Any]) -> OpencodeSpec | None:
    """How opencode will be run; None where something is wrong with that, which is told later."""
    from opencode_tasks.opencode.config import merge, read_config
    from opencode_tasks.plan.options import Options, make_spec

    with suppress(Exception):
        path = options.get("opencode_config")
        own = read_config(Path(path), "--opencode-config") if path else {}
        wanted = {name: options[name] for name in DECIDING}
        return make_spec(Options(opencode_config=merge(base_config, own), **wanted))
    return None


def _may_have_many(spec: OpencodeSpec) -> bool:
    """Whether several servers may be started: a login with one owner is the batches' alone."""
    from opencode_tasks.opencode.server_pool import server_pool

    with suppress(Exception):
        return not server_pool.one_owner(spec)
    return False


def _start_opencode(spec: OpencodeSpec) -> None:
    from opencode_tasks.opencode.server_pool import server_pool
    from opencode_tasks.system.startup_timing import startup_timing

    with suppress(Exception), startup_timing.part("opencode"):
        server_pool.call(server_pool.server, spec)
