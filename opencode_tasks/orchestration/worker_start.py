"""A Ray worker that gets ready while its driver still loads and plans."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Sequence

from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.system.startup_timing import Part, timed_imports


def warm_up(spec: OpencodeSpec, variant: str | None) -> tuple[Catalog, Sequence[Part]]:
    """Start the warm server of this process, and load in the meantime what a batch needs.

    What opencode knows, and what took how long. Raises as ``server_pool.catalog`` does.
    """
    start = time.time()
    threading.Thread(target=_load, daemon=True).start()
    catalog = server_pool.call(server_pool.catalog, spec, variant)
    return catalog, [Part("opencode", start, time.time())]


def _load() -> None:
    with timed_imports():
        for name in ("opencode_tasks.orchestration.batch_task", "prefect_ray.task_runners"):
            importlib.import_module(name)
