"""The private folders that an opencode process lives in, and the credentials it may see there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from platformdirs import user_data_path

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec, Secrets
from opencode_tasks.opencode.config import fixed_config, merged_config
from opencode_tasks.settings import settings

# Opencode installs this package (63 MB) into a fresh config folder unless it is there already.
STUB_PACKAGE = "@opencode-ai/plugin"
AUTH_CONTENT = "OPENCODE_AUTH_CONTENT"
GLOBAL_CONFIG_NAMES = (
    *("config.json", "opencode.json", "opencode.jsonc"),
    *("agent", "agents", "mode", "modes", "command", "commands", "tool", "tools", "plugin", "plugins"),
)
# Ours, or a service's: no agent or tool of a row has any use for them.
KEPT_FROM_OPENCODE = ("OPENCODE_TASKS_", "PREFECT_", "OPENCODE_SERVER_", "OPENCODE_CONFIG", "OPENCODE_DB")
LEAN_ENVIRONMENT = {
    **{
        f"OPENCODE_DISABLE_{name}": "1"
        for name in (
            *("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "EXTERNAL_SKILLS"),
            *("CLAUDE_CODE", "PRUNE", "PROJECT_CONFIG"),
        )
    },
    "OPENCODE_EXPERIMENTAL_DISABLE_FILEWATCHER": "1",
}

# The descriptors whose locks say that this process owns a home, by the home's root.
_owned: dict[Path, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDir:
    """The folders of one opencode process, all below ``root`` (mode 0700).

    ``marks`` holds a file for each session that is not recorded yet: while there is one,
    ``data`` outlives a crash. ``owner`` is locked (flock) by the process that made the home, until
    it removes it or ends.
    """

    root: Path

    @property
    def data(self) -> Path:
        """Opencode's data folder: its database and logins."""
        return self.root / "data"

    @property
    def marks(self) -> Path:
        """The sessions that are not recorded yet: a file each, which holds the id of its attempt."""
        return self.root / "unrecorded"

    @property
    def owner(self) -> Path:
        """An empty file that the owner of the home holds locked."""
        return self.root / "owner"

    @property
    def work(self) -> Path:
        """The empty folder that rows without a folder of their own work in."""
        return self.root / "work"

    @property
    def journal(self) -> Path:
        """What the plugin writes: one JSON record a line."""
        return self.root / "run" / "journal.jsonl"

    @property
    def output(self) -> Path:
        """What the process prints."""
        return self.root / "run" / "output.txt"

    @property
    def run(self) -> Path:
        """What never outlives the process: configuration, cache, temporary files, logs."""
        return self.root / "run"

    def mark(self, session_id: str, attempt_id: str = "") -> None:
        """Note a session as not recorded yet, and the attempt whose it is, empty where it is of none."""
        mark = self.marks / session_id
        mark.touch(mode=0o600)
        mark.write_text(attempt_id)

    def unmark(self, session_id: str) -> None:
        """Note a session as recorded."""
        (self.marks / session_id).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything, unless a session is not recorded yet: then only its data stays."""
        shutil.rmtree(self.run, ignore_errors=True)
        if not any(self.marks.iterdir() if self.marks.is_dir() else ()):
            shutil.rmtree(self.root, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Say that this process is done with the home: another one may read what is left in it."""
        descriptor = _owned.pop(self.root, None)
        if descriptor is not None:
            os.close(descriptor)


def instance_dirs_root() -> Path:
    """Where homes are made: below the user's data folder, on the local disk."""
    return user_data_path("opencode-tasks") / "opencode"


def make_instance_dir(parent: Path | None = None, *, user_config: bool = True) -> InstanceDir:
    """A new home with its folders, mode 0700, and the stub that spares an npm install.

    This process owns it. Without ``user_config`` the user's own global config is not in it.
    """
    instance_dir = InstanceDir(root=(parent or instance_dirs_root()) / uuid.uuid4().hex[:12])
    instance_dir.root.mkdir(parents=True, mode=0o700)
    _own(instance_dir)
    for path in (instance_dir.data, instance_dir.marks, instance_dir.work, instance_dir.run):
        path.mkdir(mode=0o700)
    for name in ("config", "cache", "state", "tmp"):
        (instance_dir.run / name).mkdir(mode=0o700)
    config = instance_dir.run / "config" / "opencode"
    config.mkdir(mode=0o700)
    if user_config:
        _link_global_config(config)
    else:
        _write_stub(config)
    return instance_dir


def is_owned(instance_dir: InstanceDir) -> bool:
    """Whether a process holds the home, or may be about to: one without ``owner`` counts as held."""
    try:
        descriptor = os.open(instance_dir.owner, os.O_RDONLY)
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
    """The environment of an opencode process in ``instance_dir``; writes its config file there."""
    config_file = instance_dir.run / "opencode-tasks.json"
    config_file.touch(mode=0o600)
    config_file.write_text(json.dumps(merged_config(spec)), encoding="utf-8")
    env = {k: v for k, v in os.environ.items() if not k.startswith(KEPT_FROM_OPENCODE)}
    env |= spec.secrets.environment
    env |= LEAN_ENVIRONMENT
    if not any(entry.get("type") == "oauth" for entry in read_store(user_store()).values()):
        # Opencode's own plugins are what OAuth logins need, and nothing else that rows use.
        env["OPENCODE_DISABLE_DEFAULT_PLUGINS"] = "1"
    if "OPENCODE_MODELS_PATH" not in env and user_models().is_file():
        env["OPENCODE_MODELS_PATH"] = str(user_models())
    env |= {
        "XDG_DATA_HOME": str(instance_dir.data),
        "XDG_CONFIG_HOME": str(instance_dir.run / "config"),
        "XDG_CACHE_HOME": str(instance_dir.run / "cache"),
        "XDG_STATE_HOME": str(instance_dir.run / "state"),
        "TMPDIR": str(instance_dir.run / "tmp"),
        "OPENCODE_CONFIG": str(config_file),
        "OPENCODE_CONFIG_CONTENT": json.dumps(fixed_config(spec)),
        "OPENCODE_TASKS_JOURNAL": str(instance_dir.journal),
        "OPENCODE_TASKS_JOURNAL_EVENTS": "1" if journal_events else "0",
        "OPENCODE_TASKS_INLINE_WAIT_S": str(spec.max_inline_wait_s),
        "OPENCODE_TASKS_MAX_STEPS": str(spec.max_steps or settings().max_steps),
    }
    if password is not None:
        env["OPENCODE_SERVER_PASSWORD"] = password
    return env


class Credentials:
    """The user's opencode logins, as one process of ours may use them.

    API keys go by the environment. An OAuth login's tokens rotate, so its store is linked, not
    copied, and has one owner at a time: a lock that is held until ``close``.
    """

    def __init__(self, provider: str | None, secrets: Secrets | None = None) -> None:
        secrets = secrets or Secrets()
        self._lock: TextIO | None = None
        self._store = user_store()
        self._given = {name: {"type": "api", "key": key} for name, key in secrets.api_keys.items()}
        self._content = (os.environ | dict(secrets.environment)).get(AUTH_CONTENT)
        self._entries = read_store(self._store) | self._given
        # True where a login's tokens rotate, so that its store has one owner at a time.
        self.needs_owner = needs_owner(self._entries, provider)

    def install(self, instance_dir: InstanceDir) -> dict[str, str]:
        """Put the logins within the reach of ``instance_dir``; the environment variables to add."""
        if self.needs_owner:
            self._own()
            target = instance_dir.data / "opencode" / "auth.json"
            target.parent.mkdir(mode=0o700, exist_ok=True)
            target.symlink_to(self._store)
            return {}
        if self._content and not self._given:
            return {AUTH_CONTENT: self._content}
        keys: dict[str, Any] = {
            name: entry for name, entry in self._entries.items() if entry.get("type") != "oauth"
        }
        if self._content:
            # As opencode itself has it, the variable stands in for the store.
            keys = {**mapping_in(json.loads(self._content)), **self._given}
        return {AUTH_CONTENT: json.dumps(keys)} if keys else {}

    def close(self) -> None:
        """Let another process own the store."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _own(self) -> None:
        name = hashlib.sha256(str(self._store).encode()).hexdigest()[:12]
        path = user_data_path("opencode-tasks") / f"login-{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise SetupError(
                "unknown",
                raw_message="another process is using this user's opencode login, whose tokens rotate",
                hint="wait for the other run to end, or give an API key by the environment",
            ) from None
        self._lock = lock


def user_store() -> Path:
    """The user's own opencode login store."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "opencode" / "auth.json"


def read_store(path: Path) -> dict[str, Any]:
    """The logins of a store by provider; empty where there is none."""
    try:
        store: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SetupError(
            "unknown",
            raw_message=f"cannot read the opencode logins in {path}: {error}",
            hint="opencode auth login",
        ) from None
    return {name: entry for name, entry in mapping_in(store).items() if isinstance(entry, dict)}


def needs_owner(entries: Mapping[str, Mapping[str, Any]], provider: str | None) -> bool:
    """Whether the provider (any, where it is not known) is used by a login whose tokens rotate."""
    used = entries.values() if provider is None else [entries.get(provider, {})]
    return any(entry.get("type") == "oauth" for entry in used)


def user_models() -> Path:
    """The catalogue of models that the user's own opencode fetched last."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "opencode" / "models.json"


def user_config_path() -> Path:
    """The user's own global opencode config folder."""
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "opencode"


def _own(instance_dir: InstanceDir) -> None:
    new = instance_dir.owner.with_suffix(".new")
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    # Under its name it is locked from the first moment.
    new.rename(instance_dir.owner)
    _owned[instance_dir.root] = descriptor


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
    _write_stub(config)


def _write_stub(config: Path) -> None:
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
