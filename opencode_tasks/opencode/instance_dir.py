"""Instance directory: the private directories and the environment of one opencode process."""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import CONTINUATION, OpencodeSpec
from opencode_tasks.opencode.config import fixed_config, literal_json, merged_config, provider_limits
from opencode_tasks.opencode.credentials import has_rotating_login, read_store, user_store
from opencode_tasks.opencode.model_catalogue import PATH_VARIABLE, write_needed_catalogue
from opencode_tasks.opencode.user_config import GLOBAL_CONFIG_NAMES, user_config_path
from opencode_tasks.settings import settings
from opencode_tasks.system.folders import can_be_made, data_folder, private_temp_folders, remove_tree
from opencode_tasks.system.loopback import loopback_bypass
from opencode_tasks.system.mounts import shared_file_system

LOCK_LIMIT_S = 5.0
LOCK_POLL_S = 0.05
# Opencode installs this package (63 MB) into a new config directory if it is not there.
STUB_PACKAGE = "@opencode-ai/plugin"
# Prefixes of variables that are removed from opencode's environment: no agent or tool of a row needs them.
REMOVED_VARIABLES = ("OPENCODE_TASKS_", "PREFECT_", "OPENCODE_SERVER_", "OPENCODE_CONFIG", "OPENCODE_DB")
LEAN_ENVIRONMENT = {
    **{
        f"OPENCODE_DISABLE_{name}": "1"
        for name in (
            *("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "EXTERNAL_SKILLS"),
            *("CLAUDE_CODE", "PRUNE", "PROJECT_CONFIG"),
        )
    },
    "OPENCODE_EXPERIMENTAL_DISABLE_FILEWATCHER": "1",
    # The plugin sees HTTP requests. Over a WebSocket, opencode retries failures silently.
    "OPENCODE_EXPERIMENTAL_WEBSOCKETS": "false",
}

# Begins the mark of a kept session; the id of the attempt that left it follows.
KEPT = "kept "

# Descriptors of the locked files of the instance directories that this process uses, by their root.
_locks: dict[Path, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDir:
    """Directories of one opencode process, all below ``root`` (mode 0700).

    ``marks`` holds a file for each session that is not in the ledger yet, and for each one that a later
    attempt continues (``kept_sessions.py``). While there is one, all but ``run`` stays if the process is
    killed. The process that uses the directory keeps ``lock_file`` locked (flock) until it releases the
    directory or ends.
    """

    root: Path

    @property
    def data(self) -> Path:
        """Opencode's data directory: its database and logins."""
        return self.root / "data"

    @property
    def marks(self) -> Path:
        """A file for each unrecorded or kept session, named by the session, with the id of its attempt."""
        return self.root / "unrecorded"

    @property
    def is_sandboxed(self) -> bool:
        """Whether opencode ran in a sandbox here. What its programs left is then read in a sandbox alone."""
        return (self.root / "sandboxed").exists()

    @property
    def lock_file(self) -> Path:
        """Empty file that is locked while a process uses the directory."""
        return self.root / "lock"

    @property
    def work(self) -> Path:
        """Empty working directory for rows without ``work_dir``."""
        return self.root / "work"

    @property
    def journal(self) -> Path:
        """File that the plugin writes, with one JSON record in each line."""
        return self.root / "run" / "journal.jsonl"

    @property
    def output(self) -> Path:
        """File with the output of the process."""
        return self.root / "run" / "output.txt"

    @property
    def run(self) -> Path:
        """Directory that is removed with the process: configuration, cache, temporary files, logs."""
        return self.root / "run"

    def mark(self, session_id: str, attempt_id: str = "") -> None:
        """Mark a session of an attempt as unrecorded. ``attempt_id`` is empty if there is no attempt.

        Raises OSError, without a mark, if the disk fails.
        """
        new = self.root / "mark"
        try:
            new.touch(mode=0o600)
            new.write_text(attempt_id)
            new.rename(self.marks / session_id)
        except OSError:
            new.unlink(missing_ok=True)
            self.unmark(session_id)
            raise

    def unmark(self, session_id: str) -> None:
        """Remove the mark of a session that is recorded."""
        (self.marks / session_id).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the directory and release it. While a session is unrecorded, its data stays."""
        remove_tree(self.run)
        if not any(self.marks.iterdir() if self.marks.is_dir() else ()):
            remove_tree(self.root)
        self.release()

    def release(self) -> None:
        """Unlock the directory: another process may then recover the sessions in it."""
        descriptor = _locks.pop(self.root, None)
        if descriptor is not None:
            os.close(descriptor)


def instance_dirs_root() -> Path:
    """Parent of the instance directories: below the user's data directory, or on a local disk.

    opencode keeps a SQLite database in each of them. If the data directory cannot be written, or is on a
    network or shared file system, a private directory in /var/tmp or in the directory for temporary files is
    used. Raises SetupError if there is no usable one.
    """
    root = data_folder() / "opencode"
    return (own_local_folder() if problem_of(root) else data_folder()) / "opencode"


def own_local_folder() -> Path:
    """A private folder for temporary files on a local disk. Raises SetupError if there is none."""
    for folder in private_temp_folders():
        if settings().shared_file_systems or shared_file_system(folder) is None:
            return folder
    root = data_folder() / "opencode"
    raise SetupError(
        "unknown",
        raw_message=f"{root} {problem_of(root)}, and no local directory for temporary files is usable",
        hint="set XDG_DATA_HOME or TMPDIR to a writable folder on a local disk",
    )


def problem_of(root: Path) -> str | None:
    """Why instance directories cannot be below a directory; None if they can."""
    if not can_be_made(root):
        return "cannot be written"
    kind = shared_file_system(root.resolve())
    if kind is None or settings().shared_file_systems:
        return None
    return f"is on a network file system ({kind})"


def make_instance_dir(parent: Path | None = None, *, user_config: bool = True) -> InstanceDir:
    """Make an instance directory, locked by this process, with its subdirectories (mode 0700).

    It contains a stub of the package that opencode would otherwise install with npm. ``parent`` None is
    ``instance_dirs_root()``. With ``user_config`` it links the user's global opencode config; without, it is
    one for a sandbox.
    """
    parent = parent or instance_dirs_root()
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    instance_dir = make_locked_dir(parent)
    for path in (instance_dir.data, instance_dir.marks, instance_dir.work):
        path.mkdir(mode=0o700)
    if not user_config:
        (instance_dir.root / "sandboxed").touch(mode=0o600)
    make_run_folder(instance_dir, user_config=user_config)
    return instance_dir


def make_locked_dir(parent: Path) -> InstanceDir:
    """Make the root of a new instance directory, locked by this process, with nothing else in it."""
    instance_dir = InstanceDir(root=parent / uuid.uuid4().hex[:12])
    instance_dir.root.mkdir(mode=0o700)
    _lock(instance_dir)
    return instance_dir


def move_locked(instance_dir: InstanceDir, target: InstanceDir) -> None:
    """Rename an instance directory that this process has locked. Raises OSError if the target is there."""
    instance_dir.root.rename(target.root)
    _locks[target.root] = _locks.pop(instance_dir.root)


def make_run_folder(instance_dir: InstanceDir, *, user_config: bool) -> None:
    """Make the folder ``run`` of an instance directory, which is removed with each process."""
    instance_dir.run.mkdir(mode=0o700)
    for name in ("config", "cache", "state", "tmp"):
        (instance_dir.run / name).mkdir(mode=0o700)
    config = instance_dir.run / "config" / "opencode"
    config.mkdir(mode=0o700)
    if user_config:
        _link_global_config(config)
    else:
        write_stub(config)


def lock_again(instance_dir: InstanceDir) -> bool:
    """Lock a directory that was released; False if it is gone, or if a process uses it for LOCK_LIMIT_S."""
    try:
        descriptor = os.open(instance_dir.lock_file, os.O_RDWR)
    except OSError:
        return False
    deadline = time.monotonic() + LOCK_LIMIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            # Those that look whether it is locked have a lock for a short time.
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return False
            time.sleep(LOCK_POLL_S)
    _locks[instance_dir.root] = descriptor
    if not instance_dir.lock_file.exists():
        # It was removed meanwhile.
        instance_dir.release()
        return False
    return True


def is_locked(instance_dir: InstanceDir) -> bool:
    """Whether a process uses the directory. True if there is no lock file, as while it is being made."""
    try:
        descriptor = os.open(instance_dir.lock_file, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def environment(
    instance_dir: InstanceDir, spec: OpencodeSpec, *, password: str | None, journal_events: bool
) -> dict[str, str]:
    """Environment of an opencode process in ``instance_dir``. Writes its config file there.

    ``password`` None sets no server password. With ``journal_events`` the plugin writes opencode's
    events into the journal.
    """
    config_file = instance_dir.run / "opencode-tasks.json"
    config_file.touch(mode=0o600)
    config_file.write_text(json.dumps(merged_config(spec)), encoding="utf-8")
    env = {k: v for k, v in os.environ.items() if not k.startswith(REMOVED_VARIABLES)}
    env |= spec.secrets.environment
    env |= LEAN_ENVIRONMENT
    env |= loopback_bypass(env)
    if not has_rotating_login(read_store(user_store()), None):
        # Only OAuth logins need the plugins that opencode loads by default.
        env["OPENCODE_DISABLE_DEFAULT_PLUGINS"] = "1"
    if (catalogue := write_needed_catalogue(instance_dir.run, spec, env)) is not None:
        env[PATH_VARIABLE] = str(catalogue)
    env |= {
        "XDG_DATA_HOME": str(instance_dir.data),
        "XDG_CONFIG_HOME": str(instance_dir.run / "config"),
        "XDG_CACHE_HOME": str(instance_dir.run / "cache"),
        "XDG_STATE_HOME": str(instance_dir.run / "state"),
        "TMPDIR": str(instance_dir.run / "tmp"),
        "OPENCODE_CONFIG": str(config_file),
        "OPENCODE_CONFIG_CONTENT": literal_json(fixed_config(spec)),
        "OPENCODE_TASKS_JOURNAL": str(instance_dir.journal),
        "OPENCODE_TASKS_JOURNAL_EVENTS": "1" if journal_events else "0",
        "OPENCODE_TASKS_CONTINUATION": CONTINUATION,
        "OPENCODE_TASKS_INLINE_WAIT_S": str(spec.max_inline_wait_s),
        "OPENCODE_TASKS_PROVIDER_LIMITS": json.dumps(provider_limits(spec.clocks)),
        "OPENCODE_TASKS_MAX_STEPS": str(spec.max_steps or settings().max_steps),
    }
    if password is not None:
        env["OPENCODE_SERVER_PASSWORD"] = password
    return env


def _lock(instance_dir: InstanceDir) -> None:
    temporary = instance_dir.lock_file.with_suffix(".new")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    # Renamed after the lock is taken, so that the lock file is never seen unlocked.
    temporary.rename(instance_dir.lock_file)
    _locks[instance_dir.root] = descriptor


def _link_global_config(config: Path) -> None:
    source = user_config_path()
    for name in GLOBAL_CONFIG_NAMES:
        if (source / name).exists():
            (config / name).symlink_to(source / name)
    if (source / "node_modules").is_dir():
        for name in ("node_modules", "package.json", "package-lock.json", "bun.lock"):
            if (source / name).exists():
                (config / name).symlink_to(source / name)
        return
    write_stub(config)


def write_stub(config: Path) -> None:
    """Write a stub of the package that opencode would install into a config folder."""
    package = config / "node_modules" / STUB_PACKAGE
    package.mkdir(parents=True)
    dependencies = {STUB_PACKAGE: "*"}
    (config / "package.json").write_text(json.dumps({"dependencies": dependencies}))
    (package / "package.json").write_text(
        json.dumps({"name": STUB_PACKAGE, "version": "0.0.0", "type": "module", "main": "index.js"})
    )
    (package / "index.js").write_text("export const tool = (definition) => definition\n")
    lock = {
        "name": "opencode",
        "lockfileVersion": 3,
        "requires": True,
        "packages": {
            "": {"dependencies": dependencies},
            f"node_modules/{STUB_PACKAGE}": {"version": "0.0.0"},
        },
    }
    (config / "package-lock.json").write_text(json.dumps(lock))
