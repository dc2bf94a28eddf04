"""What ``opencode-tasks doctor`` looks at, loaded by it alone."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httpx

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.binary import check_version, find_binary, version_of
from opencode_tasks.opencode.instance_dir import read_store, user_store
from opencode_tasks.orchestration.resolver import resolve_ledger_url
from opencode_tasks.settings import settings

Finding = dict[str, Any]
HTTP_LIMIT_S = 5.0


def opencode() -> Finding:
    """The binary that a run would start, and whether we know its version."""
    binary = find_binary(settings().opencode_bin)
    version = version_of(binary)
    finding = {"ok": True, "detail": f"{version} at {binary}", "path": str(binary), "version": version}
    try:
        check_version(version)
    except SetupError as error:
        finding |= {"ok": False, "detail": error.raw_message, "todo": error.hint}
    return finding


def credentials() -> Finding:
    """The logins in opencode's own store."""
    store = read_store(user_store())
    kinds = {name: str(entry.get("type")) for name, entry in sorted(store.items())}
    told = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    detail = (
        f"logins: {told}" if told else "no login in opencode's store; provider keys may be in the environment"
    )
    return {"ok": True, "detail": detail, "providers": kinds}


def prefect() -> Finding:
    """The Prefect API that is configured, and whether it answers."""
    from opencode_tasks.orchestration.local_server import configured_api

    url = configured_api()
    if not url:
        return {
            "ok": True,
            "detail": "PREFECT_API_URL is not set: a run starts a server for itself",
            "url": None,
        }
    try:
        ok = httpx.get(f"{url}/health", timeout=HTTP_LIMIT_S).status_code == HTTPStatus.OK
    except httpx.HTTPError as error:
        ok = False
        reason = f": {type(error).__name__}"
    else:
        reason = ""
    if ok:
        return {"ok": True, "detail": f"answers at {url}", "url": url}
    todo = "start it (prefect server start), or unset PREFECT_API_URL"
    return {"ok": False, "detail": f"no answer at {url}{reason}", "url": url, "todo": todo}


def ray() -> Finding:
    """The Ray that is installed."""
    version = importlib.metadata.version("ray")
    return {"ok": True, "detail": f"{version}: a run starts a local Ray", "version": version}


def ledger() -> Finding:
    """The ledger, and how many runs are in it."""
    from opencode_tasks.ledger import Ledger, shown_url

    url = resolve_ledger_url(None)
    with Ledger.open(url) as opened:
        runs = len(opened.runs(limit=1_000_000))
        return {"ok": True, "detail": f"{shown_url(opened.url)} ({runs} runs)", "runs": runs}


def local_model() -> Finding:
    """The small local model, which nobody needs."""
    from opencode_tasks.opencode.install import is_model, model_path

    has_engine = importlib.util.find_spec("xllamacpp") is not None
    if has_engine and is_model(model_path()):
        return {"ok": True, "detail": f"local/smollm2 at {model_path()}"}
    return {
        "ok": True,
        "detail": "not installed (optional): opencode-tasks[local], opencode-tasks setup --local",
    }


CHECKS: dict[str, Callable[[], Finding]] = {
    "opencode": opencode,
    "credentials": credentials,
    "prefect": prefect,
    "ray": ray,
    "ledger": ledger,
    "local_model": local_model,
}
