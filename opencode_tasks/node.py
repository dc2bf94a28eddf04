"""Where this code runs, without importing Ray."""

from __future__ import annotations

import sys
from typing import Any


def current_node_id() -> str:
    """Ray's id of this node; "unknown" outside a Ray worker or driver."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return "unknown"
    return ray.get_runtime_context().get_node_id()
