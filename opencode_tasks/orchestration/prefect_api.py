"""The Prefect API that a user has configured. Without one, commands run without Prefect."""

# ruff: noqa: PLC0415  loading Prefect takes seconds, and a command without an API does not need it

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from opencode_tasks.system.folders import home

API_URL = "PREFECT_API_URL"
# Prefect's default profile, which has no API URL.
EPHEMERAL = "ephemeral"
_ACTIVE = re.compile(r"^\s*active\s*=\s*[\"']?([^\"'\s]*)", re.MULTILINE)


def configured_api() -> str | None:
    """URL of the Prefect API that the user has configured; None without one. Imports Prefect."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    return str(url) if url else None


def is_configured(environ: Mapping[str, str], folder: Path) -> bool:
    """Whether the user has configured a Prefect API. Imports Prefect if that may be so."""
    return may_be_configured(environ, folder) and configured_api() is not None


def limit_retries() -> None:
    """Repeat failed requests to the Prefect API once from now on, in the whole process.

    Prefect 3.8 repeats them for a minute and more, and reports the end of a flow run after a stop too.
    """
    from prefect.settings import get_current_settings

    get_current_settings().client.max_retries = 1


def may_be_configured(environ: Mapping[str, str], folder: Path) -> bool:
    """Whether a Prefect API may be configured, from all the places that Prefect 3.8 reads.

    False is certain. True is not: only Prefect knows, and loading it takes seconds.
    """
    # Prefect's profile "local" has an API URL.
    if environ.get("PREFECT_PROFILE", EPHEMERAL) != EPHEMERAL:
        return True
    if environ.get(API_URL) or environ.get("PREFECT_API_KEY"):
        return True
    prefect_home = Path(environ.get("PREFECT_HOME") or home() / ".prefect").expanduser()
    profiles = Path(environ.get("PREFECT_PROFILES_PATH") or prefect_home / "profiles.toml").expanduser()
    files = (profiles, *(folder / name for name in (".env", "prefect.toml", "pyproject.toml")))
    return any(_may_name_an_api(file) for file in files)


def _may_name_an_api(file: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8", errors="replace").lower()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    # These files configure other programs, too.
    if {"pyproject.toml": "tool.prefect", ".env": "prefect"}.get(file.name, "") not in text:
        return False
    return "url" in text or any(name != EPHEMERAL for name in _ACTIVE.findall(text))
