"""``opencode-tasks doctor``: is everything here that a run needs, and if not, what to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any

import httpx
import typer

from opencode_tasks.cli import exits
from opencode_tasks.errors import SetupError
from opencode_tasks.flow.places import ledger_place
from opencode_tasks.opencode.binary import check_version, find_binary, version_of
from opencode_tasks.opencode.home import read_store, user_store
from opencode_tasks.settings import settings

Finding = dict[str, Any]
HTTP_LIMIT_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Check opencode, its logins, the Prefect API, Ray and the ledger: each ok, or what to do.

    Nothing is changed and no provider is called. Exit 0 where all is ok, 70 where something is not.
    """
    checks: dict[str, Callable[[], Finding]] = {
        "opencode": _opencode,
        "credentials": _credentials,
        "prefect": _prefect,
        "ray": _ray,
        "ledger": _ledger,
        "local_model": _local_model,
    }
    findings = {name: _checked(check) for name, check in checks.items()}
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
    else:
        for name, finding in findings.items():
            typer.echo(f"{'ok  ' if finding['ok'] else 'MEND'}  {name:<12} {finding['detail']}")
            if finding.get("todo"):
                typer.echo(f"      {'':<12} to do: {finding['todo']}")
    return exits.COMPLETED if all(f["ok"] for f in findings.values()) else exits.MACHINERY_FAILED


def _checked(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except SetupError as error:
        return {"ok": False, "detail": error.raw_message, "todo": error.hint}


def _opencode() -> Finding:
    binary = find_binary(settings().opencode_bin)
    version = version_of(binary)
    finding = {"ok": True, "detail": f"{version} at {binary}", "path": str(binary), "version": version}
    try:
        check_version(version)
    except SetupError as error:
        finding |= {"ok": False, "detail": error.raw_message, "todo": error.hint}
    return finding


def _credentials() -> Finding:
    store = read_store(user_store())
    kinds = {name: str(entry.get("type")) for name, entry in sorted(store.items())}
    told = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    detail = (
        f"logins: {told}" if told else "no login in opencode's store; provider keys may be in the environment"
    )
    return {"ok": True, "detail": detail, "providers": kinds}


def _prefect() -> Finding:
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
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


def _ray() -> Finding:
    version = importlib.metadata.version("ray")
    return {"ok": True, "detail": f"{version}: a run starts a local Ray", "version": version}


def _ledger() -> Finding:
    from opencode_tasks.ledger import Ledger, shown_url

    url = ledger_place(None)
    with Ledger.open(url) as ledger:
        runs = len(ledger.runs(limit=1_000_000))
        return {"ok": True, "detail": f"{shown_url(ledger.url)} ({runs} runs)", "runs": runs}


def _local_model() -> Finding:
    from opencode_tasks.opencode.install import is_model, model_path

    has_engine = importlib.util.find_spec("xllamacpp") is not None
    if has_engine and is_model(model_path()):
        return {"ok": True, "detail": f"local/smollm2 at {model_path()}"}
    return {
        "ok": True,
        "detail": "not installed (optional): opencode-tasks[local], opencode-tasks setup --local",
    }
