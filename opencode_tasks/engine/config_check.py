"""Config check: rows are sent only while opencode's config decides their answers as it did in the plan.

Each process of opencode reads the config of the user and the machine. If an agent or an option changes after
the plan, or is another one on the machine of a worker, the answers would get the keys of other ones. Of an
agent that is not there, opencode 1.18.33 uses its default agent, with all tools and without a message.
"""

from __future__ import annotations

import asyncio
import json
import socket

from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.opencode.user_config import config_digest
from opencode_tasks.plan.run_spec import RunSpec

MAX_NAMES = 3
HINT = (
    "Undo the change, or give that machine the config of the machine that planned the run; then run "
    "opencode-tasks resume. A new run sends all rows again, with the config that is there then."
)


class ConfigFiles:
    """The config files that decide the answers of a run, as they were when the object was made."""

    def __init__(self, run_spec: RunSpec) -> None:
        self._is_read = BACKENDS[run_spec.backend].runs_opencode
        self._explicit = json.dumps(run_spec.spec.config, default=str)
        self._digest = self._digest_now()

    async def have_changed(self) -> bool:
        """Whether a file has another content now."""
        return self._is_read and await asyncio.to_thread(self._digest_now) != self._digest

    def _digest_now(self) -> str:
        return config_digest(self._explicit) if self._is_read else ""


async def check_config(run_spec: RunSpec, node_id: str) -> None:
    """Raise SetupError if the config of this machine decides other answers than the one of the plan.

    A server of opencode says what is in force; it is asked once for each state of the config files.
    """
    try:
        catalog = await server_pool.catalog(run_spec.spec, run_spec.variant, run_spec.backend)
    except InputError as error:
        raise _refusal(node_id, "; ".join(error.faults)) from None
    found, planned = catalog.decided_by, run_spec.decided_by
    changed = sorted(name for name in {*found, *planned} if found.get(name) != planned.get(name))
    if changed:
        more = f" and {len(changed) - MAX_NAMES:,} more" if len(changed) > MAX_NAMES else ""
        raise _refusal(node_id, ", ".join(changed[:MAX_NAMES]) + more)


def _refusal(node_id: str, difference: str) -> SetupError:
    place = socket.gethostname()
    message = f"opencode's config on {place} is not the one with which the run was planned: {difference}"
    return SetupError(node_id, raw_message=message, hint=HINT)
