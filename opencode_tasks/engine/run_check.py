"""Check that a run can be read, for all that show or continue one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencode_tasks.domain.text import no_run, not_begun
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import PREPARING


def checked_run(run_id: str, run: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the columns of a run. Raises InputError without one, and if its rows are not all written."""
    if run is None:
        raise InputError((no_run(run_id),))
    if run["status"] == PREPARING:
        raise InputError((not_begun(run_id),))
    return run
