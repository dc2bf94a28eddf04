"""Kept sessions: an attempt leaves its session on the disk, and the next attempt at its row continues it.

The instance directory of a kept session has opencode's data and the workspace, and no process uses it. Its
mark names the attempt that left it. The next attempt on this machine takes the directory: it locks it, and
marks the session as its own. With a session store, one on another machine fetches the directory first.
"""

from __future__ import annotations

from opencode_tasks.opencode.backend import KeptSession
from opencode_tasks.opencode.instance_dir import (
    KEPT,
    InstanceDir,
    lock_again,
    make_run_folder,
)
from opencode_tasks.opencode.session_export import SESSION_ID
from opencode_tasks.opencode.session_store import SessionStore
from opencode_tasks.system.folders import remove_tree


def keep_session(
    instance_dir: InstanceDir, session_id: str, attempt_id: str, store: SessionStore | None = None
) -> None:
    """Mark a session as kept, store it if there is a store, and release its directory.

    Raises OSError if the disk fails.
    """
    instance_dir.mark(session_id, f"{KEPT}{attempt_id}")
    remove_tree(instance_dir.run)
    if store is not None:
        store.put(instance_dir, attempt_id)
    instance_dir.release()


def is_kept(instance_dir: InstanceDir, kept: KeptSession) -> bool:
    """Whether the directory has the session as its attempt left it."""
    try:
        return (instance_dir.marks / kept.session_id).read_text() == f"{KEPT}{kept.left_by}"
    except OSError:
        return False


def take_session(
    instance_dir: InstanceDir,
    kept: KeptSession,
    attempt_id: str,
    *,
    user_config: bool,
    store: SessionStore | None = None,
) -> bool:
    """Take a kept session for an attempt; False if it is gone, or if another process has its directory.

    ``user_config`` is False in a sandbox; a session that began in one is not continued outside, nor the other
    way round. ``store`` has the session too if it is not on this machine. This process has locked the
    directory then. Raises OSError if the disk fails, and SetupError if the store cannot be read.
    """
    # The id names a file.
    if SESSION_ID.fullmatch(kept.session_id) is None:
        return False
    is_here = kept.host is None and lock_again(instance_dir)
    if not is_here and not (store is not None and store.fetch(kept, instance_dir)):
        return False
    try:
        if not is_kept(instance_dir, kept) or instance_dir.is_sandboxed == user_config:
            instance_dir.release()
            return False
        remove_tree(instance_dir.run)
        make_run_folder(instance_dir, user_config=user_config)
        instance_dir.mark(kept.session_id, attempt_id)
    except OSError:
        instance_dir.release()
        raise
    if store is not None:
        # The session changes now, and is stored again if this attempt leaves it.
        store.remove([kept.left_by])
    return True
