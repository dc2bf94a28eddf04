"""The user's opencode logins, as an opencode process of this package may use them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TextIO

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import Secrets
from opencode_tasks.system.folders import can_be_made, data_folder, home, private_temp_folders

# Environment variable with logins in the format of opencode's login store.
AUTH_CONTENT = "OPENCODE_AUTH_CONTENT"


class Credentials:
    """Logins of the user and API keys of a run, for one opencode process.

    API keys are passed by the environment. The tokens of an OAuth login rotate, so its store is linked
    and not copied, and one process at a time may use it: ``is_exclusive`` is then True, and a file lock is
    held from ``install`` to ``close``. ``provider`` None means that the provider is not known.
    """

    def __init__(self, provider: str | None, secrets: Secrets | None = None) -> None:
        secrets = secrets or Secrets()
        self._lock: TextIO | None = None
        self._store = user_store()
        self._api_keys = {name: {"type": "api", "key": key} for name, key in secrets.api_keys.items()}
        self._content = (os.environ | dict(secrets.environment)).get(AUTH_CONTENT)
        self._logins = read_store(self._store) | self._api_keys
        self.is_exclusive: Final = has_rotating_login(self._logins, provider)

    def install(self, data_dir: Path) -> dict[str, str]:
        """Make the logins available to opencode; the environment variables to set for it.

        ``data_dir`` is the data directory of its instance directory, which gets the link to the store.

        Raises SetupError if another process uses an exclusive login.
        """
        if self.is_exclusive:
            self._lock_store()
            target = data_dir / "opencode" / "auth.json"
            target.parent.mkdir(mode=0o700, exist_ok=True)
            # A session that is continued has a link already.
            target.unlink(missing_ok=True)
            target.symlink_to(self._store)
            return {}
        if self._content and not self._api_keys:
            return {AUTH_CONTENT: self._content}
        logins: dict[str, Any] = {
            name: login for name, login in self._logins.items() if login.get("type") != "oauth"
        }
        if self._content:
            # In opencode too, the variable replaces the store.
            logins = {**mapping_in(json.loads(self._content)), **self._api_keys}
        return {AUTH_CONTENT: json.dumps(logins)} if logins else {}

    def close(self) -> None:
        """Release an exclusive login for other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _lock_store(self) -> None:
        name = hashlib.sha256(str(self._store).encode()).hexdigest()[:12]
        folder = data_folder()
        if not can_be_made(folder):
            folder = next(iter(private_temp_folders()), folder)
        path = folder / f"login-{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise SetupError(
                "unknown",
                raw_message="another process is using this user's opencode login, whose tokens rotate",
                hint="Wait until the other run ends, or set an API key in the environment.",
            ) from None
        self._lock = lock


def user_store() -> Path:
    """Path of the user's opencode login store."""
    data = os.environ.get("XDG_DATA_HOME") or str(home() / ".local" / "share")
    return Path(data) / "opencode" / "auth.json"


def read_store(path: Path) -> dict[str, Any]:
    """Logins of a store by provider; empty if the file does not exist.

    Raises SetupError if the file cannot be read.
    """
    try:
        store: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SetupError(
            "unknown",
            raw_message=f"cannot read the opencode logins in {path}: {error}",
            hint="Log in again with `opencode auth login`.",
        ) from None
    return {name: login for name, login in mapping_in(store).items() if isinstance(login, dict)}


def login_types(secrets: Secrets) -> dict[str, str]:
    """The types of the logins by provider: ``api``, ``oauth``, …

    Raises SetupError if the user's login store cannot be read.
    """
    content = (os.environ | dict(secrets.environment)).get(AUTH_CONTENT)
    store = mapping_in(json.loads(content)) if content else read_store(user_store())
    found = {name: str(mapping_in(login).get("type")) for name, login in store.items()}
    return found | dict.fromkeys(secrets.api_keys, "api")


def has_rotating_login(logins: Mapping[str, Mapping[str, Any]], provider: str | None) -> bool:
    """Whether the provider has an OAuth login, whose tokens rotate. None stands for any provider."""
    used = logins.values() if provider is None else [logins.get(provider, {})]
    return any(login.get("type") == "oauth" for login in used)
