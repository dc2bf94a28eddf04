"""Models of the scripted provider, as an opencode config has them; prices are USD per million tokens."""

from __future__ import annotations

from typing import Any

DEFAULT_MODELS: dict[str, dict[str, Any]] = {
    "echo": {
        "name": "Echo",
        "tool_call": True,
        "cost": {"input": 1.0, "output": 2.0, "cache_read": 0.1, "cache_write": 1.25},
        "limit": {"context": 1_000_000, "output": 4096},
    },
    "free": {
        "name": "Free",
        "tool_call": True,
        "cost": {"input": 0, "output": 0},
        "limit": {"context": 128_000, "output": 4096},
    },
    "unpriced": {
        "name": "Unpriced",
        "tool_call": True,
        "limit": {"context": 128_000, "output": 4096},
    },
}
