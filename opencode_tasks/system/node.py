"""Where this code runs, and how much memory is there, without importing Ray."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil

# A container's limit and use, in bytes, as it sees them itself (cgroups of version 2 and 1).
CGROUPS = Path("/sys/fs/cgroup")
LIMIT_AND_USE = (
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
    """The memory that this container, or else this machine, may use in all."""
    limit, _ = _of_container()
    total = psutil.virtual_memory().total
    return total if limit is None else min(total, limit)


def memory_available_bytes() -> int:
    """The memory that is free for new processes here, now."""
    limit, used = _of_container()
    free = psutil.virtual_memory().available
    return free if limit is None else max(0, min(free, limit - used))


def _of_container() -> tuple[int | None, int]:
    """The container's limit, None where it has none, and what is used of it."""
    for limit, used in LIMIT_AND_USE:
        told = _read(CGROUPS / limit)
        if told is not None:
            return told, _read(CGROUPS / used) or 0
    return None, 0


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # "max" is no limit.
