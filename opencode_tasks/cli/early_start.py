"""Services that take seconds to start, started while modules are loaded: opencode, a Prefect server, Ray."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opencode_tasks.opencode.backend import OpencodeSpec
    from opencode_tasks.orchestration.local_ray import EarlyRay
    from opencode_tasks.orchestration.prefect_server import LocalServer

API_URL = "PREFECT_API_URL"


@dataclass(frozen=True, slots=True)
class EarlyServices:
    """The services that were started; None for one that was not.

    ``uses_prefect`` says whether the rows run as a flow: on Ray, and wherever an API may be configured. On
    threads without an API there would only be a server that ends with the command, with nothing to look at.
    """

    uses_prefect: bool
    prefect: LocalServer | None
    ray: EarlyRay | None


@contextmanager
def start_early(
    values: Mapping[str, Any], base_config: Mapping[str, Any], *, is_dry: bool
) -> Generator[EarlyServices]:
    """Start in the background the services that these options need; the context ends them.

    ``values`` are the options of ``annotate_dataset``. A fault of an option is reported later, by the
    check of the options, and a service that does not start by its first user. No provider is called.
    """
    from opencode_tasks.opencode.backend_table import BACKENDS
    from opencode_tasks.opencode.server_pool import server_pool
    from opencode_tasks.orchestration.prefect_server import may_be_configured

    kind = BACKENDS[values["backend"]]
    with ExitStack() as stack:
        source = values["input"]
        # If the input does not exist, the command ends soon and needs no service.
        is_run = not is_dry and (":" in source or Path(source).exists())
        has_api = may_be_configured(os.environ, Path.cwd())
        uses_prefect = has_api or values["runner"] == "ray"
        prefect = _start_prefect(stack) if is_run and uses_prefect and not has_api else None
        # The keys of a block would need another server.
        spec = None if values["credentials"] else _spec(values, base_config)
        # A Ray worker reads the address of the Prefect API from the environment in which Ray was started.
        is_own_ray = values["runner"] == "ray" and values["ray_address"] is None
        ray = None
        if is_run and is_own_ray and spec is not None and API_URL in os.environ:
            in_worker = kind.uses_servers and _may_have_many(spec)
            ray = _start_ray(stack, spec, values["variant"], in_worker=in_worker)
            if in_worker:
                server_pool.expect(spec, values["variant"], ray.catalog)
                spec = None
        if spec is not None and kind.catalog is None:
            Thread(target=_start_opencode, args=(spec,), daemon=True).start()
        yield EarlyServices(uses_prefect, prefect, ray)


def _start_prefect(stack: ExitStack) -> LocalServer:
    from opencode_tasks.orchestration.prefect_server import LocalServer, announce

    server = LocalServer.start()
    stack.callback(server.stop)
    announce(server)
    stack.callback(os.environ.pop, API_URL, None)
    Thread(target=_wait_for, args=(server,), daemon=True).start()
    return server


def _wait_for(server: LocalServer) -> None:
    # The first user of the server reports its failure.
    with suppress(Exception):
        server.wait()


def _start_ray(stack: ExitStack, spec: OpencodeSpec, variant: str | None, *, in_worker: bool) -> EarlyRay:
    from opencode_tasks.orchestration.local_ray import EarlyRay, ray_folder, ray_options

    options = ray_options(stack.enter_context(ray_folder()))
    ray = EarlyRay("local", options, (spec, variant) if in_worker else None)
    stack.callback(ray.end)
    return ray


def _spec(values: Mapping[str, Any], base_config: Mapping[str, Any]) -> OpencodeSpec | None:
    """The way to run opencode; None if an option has a fault, which is reported later."""
    from opencode_tasks.opencode.config import merge
    from opencode_tasks.plan.option_signatures import ANNOTATE
    from opencode_tasks.plan.options import make_options, make_spec

    with suppress(Exception):
        options = make_options({name: value for name, value in values.items() if name in ANNOTATE})
        config = merge(base_config, options.opencode_config)
        return make_spec(replace(options, opencode_config=config))
    return None


def _may_have_many(spec: OpencodeSpec) -> bool:
    """Whether several servers may run at once: a login with one owner is left to the batches."""
    from opencode_tasks.opencode.server_pool import server_pool

    with suppress(Exception):
        return not server_pool.has_exclusive_login(spec)
    return False


def _start_opencode(spec: OpencodeSpec) -> None:
    from opencode_tasks.opencode.server_pool import server_pool
    from opencode_tasks.system.startup_times import startup_timing

    with suppress(Exception), startup_timing.part("opencode"):
        server_pool.call(server_pool.server, spec)
