"""Forks of this process, as multiprocessing makes them: only the thread that forks lives in the child."""

from __future__ import annotations

import os
from typing import Any, TypeVar

LockT = TypeVar("LockT", bound=Any)


def free_after_fork(lock: LockT) -> LockT:
    """The lock itself, which a forked child finds free, whichever thread held it."""
    # The standard library does this for its own locks, and has no public function for it.
    os.register_at_fork(after_in_child=lock._at_fork_reinit)  # noqa: SLF001  see above
    return lock
