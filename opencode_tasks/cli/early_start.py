"""Services that take seconds to start, started while modules are loaded: opencode and Ray."""

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
    from opencode_tasks.orchestration.local_ray import EarlyRay, FirstTask

# The modules of a batch on Ray, as a task run of Prefect and without Prefect.
FLOW_BATCH = ("opencode_tasks.orchestration.tasks", "prefect_ray.task_runners")
PLAIN_BATCH = ("opencode_tasks.engine.worker",)


@dataclass(frozen=True, slots=True)
class EarlyServices:
    """The services that were started.

    ``may_use_prefect`` is False if no Prefect API is configured, for certain: then the rows run without
    Prefect, whose flow run would end with the command, with nothing to look at. ``ray`` is None if no Ray was
    started.
    """

    may_use_prefect: bool
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
    from opencode_tasks.orchestration.local_ray import FirstTask
    from opencode_tasks.orchestration.prefect_api import API_URL, may_be_configured

    kind = BACKENDS[values["backend"] or "server"]
    with ExitStack() as stack:
        source = values["input"]
        # If the input does not exist, the command ends soon and needs no service.
        is_run = not is_dry and (":" in source or Path(source).exists())
        may_use_prefect = may_be_configured(os.environ, Path.cwd())
        # The keys of a block would need another server.
        spec = None if values["credentials"] else _spec(values, base_config)
        is_own_ray = values["runner"] == "ray" and values["ray_address"] is None
        # A Ray worker reads the address of the Prefect API from the environment in which Ray was started.
        workers_know_the_api = API_URL in os.environ or not may_use_prefect
        ray = None
        if is_run and is_own_ray and spec is not None and workers_know_the_api:
            in_worker = kind.uses_servers and _may_have_many(spec)
            modules = FLOW_BATCH if may_use_prefect else PLAIN_BATCH
            first_task = FirstTask(spec=spec, variant=values["variant"], modules=modules)
            ray = _start_ray(stack, first_task if in_worker else None)
            if in_worker:
                server_pool.expect(spec, values["variant"], ray.catalog)
                spec = None
        if spec is not None and kind.runs_opencode:
            Thread(target=_start_opencode, args=(spec,), daemon=True).start()
        yield EarlyServices(may_use_prefect, ray)


def _start_ray(stack: ExitStack, first_task: FirstTask | None) -> EarlyRay:
    from opencode_tasks.orchestration.local_ray import EarlyRay, ray_folder, ray_options

    ray = EarlyRay("local", ray_options(stack.enter_context(ray_folder())), first_task)
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
