"""Session store: kept sessions in a folder that all machines reach, so that another machine continues them.

An archive has the instance directory of one session: opencode's database, the workspace with the record of
its changes, and the mark of the attempt that left it. It has no keys and no logins. It is unpacked at the
same path, because the conversation names the files of the workspace by their paths.
"""

from __future__ import annotations

import gzip
import logging
import os
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import KeptSession, OpencodeSpec
from opencode_tasks.opencode.instance_dir import (
    InstanceDir,
    instance_dirs_root,
    make_locked_dir,
    move_locked,
)
from opencode_tasks.system.folders import remove_tree
from opencode_tasks.system.ray_node import current_node_id
from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.file_store import FileStore
from opencode_tasks.workspace.members import make_link

SUFFIX = ".tar.gz"
# Those of an instance directory that belong to a process, and the logins, which the next process installs.
NOT_STORED = frozenset(
    ("lock", "run", *(f"data/opencode/{name}" for name in ("auth.json", "mcp-auth.json", "log")))
)
# Rebuilt by SQLite from its log.
NOT_STORED_SUFFIX = "-shm"
COMPRESSION = 1
# The last folder of an archive, so that a part of one is no kept session.
MARKS = "unrecorded"
UNREADABLE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, WorkspaceFaultError)
HINT = "Make it usable from this machine. Without OPENCODE_TASKS_KEPT_SESSIONS, interrupted rows begin anew."

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionStore:
    """The stored sessions; ``files`` is their folder, with an archive for each attempt that left one."""

    files: FileStore

    def put(self, instance_dir: InstanceDir, attempt_id: str) -> None:
        """Store the session that an attempt left. A failure is logged: the session stays on this machine."""
        try:
            with tempfile.TemporaryDirectory(prefix="oct-") as folder:
                path = Path(folder, f"session{SUFFIX}")
                _pack(instance_dir.root, path)
                self.files.put(path, f"{attempt_id}{SUFFIX}")
        except (WorkspaceFaultError, tarfile.TarError, OSError, ValueError) as error:
            _log.warning("only this machine can continue the session of attempt %s: %s", attempt_id, error)

    def fetch(self, kept: KeptSession, instance_dir: InstanceDir) -> bool:
        """Make the instance directory of a stored session, locked by this process; False if there is none.

        Raises SetupError if the folder of the stored sessions cannot be read, and OSError if the disk fails.
        """
        if not _may_be_made(instance_dir.root):
            return False
        with tempfile.TemporaryDirectory(prefix="oct-") as folder:
            path = Path(folder, f"session{SUFFIX}")
            try:
                if not self.files.get(f"{kept.left_by}{SUFFIX}", path):
                    return False
            except WorkspaceFaultError as fault:
                message = f"OPENCODE_TASKS_KEPT_SESSIONS: {fault}"
                raise SetupError(current_node_id(), raw_message=message, hint=HINT) from None
            return _unpack(path, instance_dir)

    def remove(self, attempt_ids: Collection[str]) -> None:
        """Remove the sessions that these attempts left. A failure is logged."""
        for attempt_id in attempt_ids:
            try:
                self.files.remove(f"{attempt_id}{SUFFIX}")
            except WorkspaceFaultError as fault:
                _log.warning("the stored session of attempt %s stays: %s", attempt_id, fault)

    def attempt_ids(self) -> list[str]:
        """The attempts whose sessions are stored; none if the folder cannot be read."""
        try:
            names = self.files.names()
        except WorkspaceFaultError as fault:
            _log.warning("stored sessions that no attempt needs stay: %s", fault)
            return []
        return [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]


def session_store(spec: OpencodeSpec) -> SessionStore | None:
    """Where the sessions of a spec are stored for other machines; None for nowhere.

    Raises SetupError if nothing can be stored there.
    """
    if spec.kept_sessions is None:
        return None
    try:
        _check(spec.kept_sessions)
    except WorkspaceFaultError as fault:
        message = f"OPENCODE_TASKS_KEPT_SESSIONS: {fault}"
        raise SetupError(current_node_id(), raw_message=message, hint=HINT) from None
    return SessionStore(FileStore(spec.kept_sessions))


@cache
def _check(address: str) -> None:
    """Raise WorkspaceFaultError if this machine cannot write there. A success is remembered."""
    FileStore(address).check()


def _may_be_made(root: Path) -> bool:
    """Whether an instance directory can be at a path on this machine, where nothing is yet."""
    own = instance_dirs_root()
    is_own = root.is_relative_to(own) and root != own and ".." not in root.parts
    return is_own and not os.path.lexists(root)


def _pack(root: Path, path: Path) -> None:
    def stored(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        # Sockets, pipes and devices are not files of a workspace.
        is_kind = member.isfile() or member.isdir() or member.issym() or member.islnk()
        is_left_out = member.name in NOT_STORED or (
            member.name.startswith("data/") and member.name.endswith(NOT_STORED_SUFFIX)
        )
        return member if is_kind and not is_left_out else None

    with tarfile.open(path, "w:gz", compresslevel=COMPRESSION) as archive:
        for one in sorted(root.iterdir(), key=lambda one: (one.name == MARKS, one.name)):
            archive.add(one, one.name, filter=stored)


def _unpack(path: Path, instance_dir: InstanceDir) -> bool:
    """Unpack an archive into an instance directory, locked by this process; False if it is damaged.

    Raises OSError if the disk fails: the session is paid for, and stays in the store.
    """
    parent = instance_dirs_root()
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = make_locked_dir(parent)
    try:
        with tarfile.open(path, "r:gz") as archive:
            _extract(archive, made.root)
        instance_dir.root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        move_locked(made, instance_dir)
    except UNREADABLE as error:
        _log.warning("the stored session %s is damaged: %s", instance_dir.root, error)
        _abandon(made)
        return False
    except OSError:
        _abandon(made)
        raise
    return True


def _abandon(made: InstanceDir) -> None:
    remove_tree(made.root)
    made.release()


def _extract(archive: tarfile.TarFile, root: Path) -> None:
    """Extract the members. Links are made last, so that nothing is written through one.

    A folder gets its permissions when it is complete, since they may forbid to write into it.
    """
    links, folders = list[tarfile.TarInfo](), list[tarfile.TarInfo]()
    for member in _owned(archive, root):
        if member.issym():
            links.append(member)
        elif member.isdir():
            (root / member.name).mkdir(mode=0o700)
            folders.append(member)
        else:
            archive.extract(member, root, filter="fully_trusted")
    for link in links:
        make_link(root, link.name, link.linkname)
    for folder in reversed(folders):
        (root / folder.name).chmod(folder.mode)


def _owned(archive: tarfile.TarFile, root: Path) -> Iterator[tarfile.TarInfo]:
    """The members below the folder, with the owner of this process. Raises tarfile.FilterError for others."""
    for member in archive:
        is_inside = tarfile.data_filter if member.islnk() else tarfile.tar_filter
        checked = is_inside(member, str(root))
        yield checked.replace(uid=os.geteuid(), gid=os.getegid(), uname="", gname="", deep=False)
