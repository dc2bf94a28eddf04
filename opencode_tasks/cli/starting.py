"""Starting opencode early: it needs seconds, and so does loading Prefect and pandas."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any


def start_opencode(options: Mapping[str, Any], base_config: Mapping[str, Any]) -> None:
    """Start the warm server that these options will want, in the background.

    What is wrong with them is told where they are checked; nothing is asked of a provider here.
    """
    Thread(target=_start, args=(dict(options), base_config), daemon=True).start()


def _start(options: dict[str, Any], base_config: Mapping[str, Any]) -> None:
    from opencode_tasks.flow.options import Options, make_spec
    from opencode_tasks.opencode.config import merge, read_config
    from opencode_tasks.opencode.warm import warm

    deciding = ("model", "system", "agent", "mcp_servers", "timeout", "work_dir", "opencode_bin")
    with suppress(Exception):
        path = options.get("opencode_config")
        own = read_config(Path(path), "--opencode-config") if path else {}
        wanted = {name: options[name] for name in deciding}
        spec = make_spec(Options(opencode_config=merge(base_config, own), **wanted))
        warm.call(warm.server, spec)
