"""Ray node id and memory of this machine. Ray is not imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil

# Files with the memory limit and the memory in use of a container, in bytes: cgroups version 2, then 1.
CGROUPS = Path("/sys/fs/cgroup")
LIMIT_AND_USAGE = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def current_node_id() -> str:
    """Ray's id of this node; "unknown" outside a Ray worker or driver."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return "unknown"
    return ray.get_runtime_context().get_node_id()


def memory_limit_bytes() -> int:
    """Total memory in bytes that this container, or else this machine, may use."""
    limit, _ = _container_memory()
    total = psutil.virtual_memory().total
    return total if limit is None else min(total, limit)


def memory_available_bytes() -> int:
    """Memory in bytes that is free for new processes now."""
    limit, used = _container_memory()
    free = psutil.virtual_memory().available
    return free if limit is None else max(0, min(free, limit - used))


def _container_memory() -> tuple[int | None, int]:
    """Memory limit of the container (None: no limit) and the memory in use, in bytes."""
    for limit_file, usage_file in LIMIT_AND_USAGE:
        limit = _read_bytes(CGROUPS / limit_file)
        if limit is not None:
            return limit, _read_bytes(CGROUPS / usage_file) or 0
    return None, 0


def _read_bytes(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # "max" means no limit.
