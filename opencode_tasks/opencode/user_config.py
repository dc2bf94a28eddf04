"""The user's opencode config: the files that every opencode process of this user reads.

They are JSON files, and folders with agents, commands, tools and plugins, in three places: the global config
directory, ``~/.opencode``, and ``/etc/opencode`` for the administrator of the machine (read in opencode
1.18.33). Project configs are disabled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opencode_tasks.errors import InputError
from opencode_tasks.opencode.config import merge, read_config
from opencode_tasks.system.folders import home

CONFIG_FILES = ("config.json", "opencode.json", "opencode.jsonc")
PLUGIN_FOLDERS = ("plugin", "plugins")
GLOBAL_CONFIG_NAMES = (
    *CONFIG_FILES,
    *("agent", "agents", "mode", "modes", "command", "commands", "tool", "tools"),
    *PLUGIN_FOLDERS,
)
MANAGED_CONFIG = Path("/etc/opencode")
# Dependencies of plugins: many files, and a plugin that uses other ones changes too.
LEFT_OUT = "node_modules"
_PLUGIN_KEY = re.compile(r"\bplugin[\"']?\s*:")
_REFERENCE = re.compile(r"\{(env|file):([^}]+)\}")
# A file that a config names: {file:PATH}, or a plugin by its URL.
_NAMED_FILE = re.compile(r"\{file:([^}]+)\}|file://([^\"'\s]+)")


def user_config_path() -> Path:
    """Path of the user's global opencode config directory."""
    config = os.environ.get("XDG_CONFIG_HOME") or str(home() / ".config")
    return Path(config) / "opencode"


def config_folders() -> tuple[Path, ...]:
    """The folders with the user's config, the later ones over the earlier ones. They may not exist."""
    return user_config_path(), home() / ".opencode", MANAGED_CONFIG


def read_user_config(folder: Path | None = None) -> dict[str, Any]:
    """The config of the user in a folder; files that cannot be read are left out, and opencode reports them.

    ``folder`` None is that of the global config.
    """
    folder = folder or user_config_path()
    config: dict[str, Any] = {}
    for name in CONFIG_FILES:
        with contextlib.suppress(InputError):
            config = merge(config, read_config(folder / name, name))
    return config


def expand_references(text: str, environ: Mapping[str, str]) -> str:
    """The text with the values of its ``{env:NAME}`` and ``{file:PATH}``; empty for one without a value."""
    return _REFERENCE.sub(lambda found: _referenced(found[1], found[2], environ), text)


def _referenced(kind: str, name: str, environ: Mapping[str, str]) -> str:
    if kind == "env":
        return environ.get(name, "")
    try:
        return Path(name).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError, RuntimeError):
        return ""


def config_digest(explicit: str) -> str:
    """Digest of the contents of the user's config files, and of the files that they or ``explicit`` name.

    ``explicit`` is the JSON text of a config with absolute paths.
    """
    digest = hashlib.sha256()
    for path, content in _contents(explicit):
        digest.update(f"{path}\0{len(content)}\0".encode(errors="surrogateescape"))
        digest.update(content)
    return digest.hexdigest()


def config_texts(explicit: str) -> list[tuple[Path, str]]:
    """The texts of the files that ``config_digest`` reads, with their paths."""
    return [(path, content.decode(errors="replace")) for path, content in _contents(explicit)]


def has_plugins(explicit: str, files: Sequence[tuple[Path, str]]) -> bool:
    """Whether a config, or one of the files of ``config_texts``, is or names a plugin of the user."""
    configs = (text for path, text in files if path.name in CONFIG_FILES)
    return any(path.parent.name in PLUGIN_FOLDERS for path, _ in files) or any(
        _PLUGIN_KEY.search(text) for text in (explicit, *configs)
    )


def _contents(explicit: str) -> Iterator[tuple[Path, bytes]]:
    for path in _named_files(explicit, Path.cwd()):
        yield path, _read(path)
    for path in _config_files():
        content = _read(path)
        yield path, content
        for named in _named_files(content.decode(errors="replace"), path.parent):
            yield named, _read(named)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _config_files() -> Iterator[Path]:
    for folder in config_folders():
        for name in GLOBAL_CONFIG_NAMES:
            yield from _files_at(folder / name)


def _files_at(path: Path) -> Iterator[Path]:
    """The file itself, or the files below the directory in a fixed order."""
    if path.is_file():
        yield path
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name != LEFT_OUT)
        yield from (Path(folder, name) for name in sorted(names))


def _named_files(text: str, folder: Path) -> Iterator[Path]:
    for found in _NAMED_FILE.finditer(text):
        with contextlib.suppress(RuntimeError):
            path = folder / Path(found[1] or found[2]).expanduser()
            if path.is_file():
                yield path
