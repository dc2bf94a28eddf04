"""A key that the provider repeats appears in nothing that a run writes."""

from __future__ import annotations

import base64
import json
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cluster import Desk
from rig import RARELY_CLI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from opencode_tasks.testing import Reply

KEY = "sk-live-0a1B2c3D4e5F6g7H"
SAID = "The request had the header Bearer {}."
ECHO = {"message": SAID.format(KEY), "type": "odd"}


def texts_in(value: Any) -> list[str]:
    """The texts of a JSON value at any depth, and what those in base64 encode."""
    if isinstance(value, dict):
        return [text for pair in value.items() for member in pair for text in texts_in(member)]
    if isinstance(value, list):
        return [text for member in value for text in texts_in(member)]
    if not isinstance(value, str):
        return []
    try:
        return [value, base64.b64decode(value, validate=True).decode(errors="replace")]
    except ValueError:
        return [value]


@pytest.mark.slow
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_no_file_and_no_line_contains_the_key(desk: Desk, backend: str) -> None:
    for status in (400, 500):
        desk.provider.on(f"status {status}", Reply(status=status, body={"error": ECHO}))
    desk.provider.on("stream", Reply(text="", stream_error=ECHO))
    desk.provider.on("repeat", Reply(text=f"It is {KEY}."))
    failed = ["status 400", "status 500", "in a stream"]
    prompts = [*failed, "repeat the key"]
    desk.write_csv("in.csv", [{"id": prompt, "prompt": prompt} for prompt in prompts])
    (desk.folder / "logs").mkdir()
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--id-column", "id", "--backend", backend)
    config = json.loads((desk.folder / "opencode.json").read_text())
    config["provider"]["fake"]["options"]["apiKey"] = "{env:HOUSE_KEY}"
    (desk.folder / "opencode.json").write_text(json.dumps(config))
    more = ("--log-dir", "logs", "--max-attempts", "1", "--concurrency", "2", "--no-wait", "--verbose")
    ran = desk.run(*arguments, *more, env={"HOUSE_KEY": KEY})
    assert {call.authorization for call in desk.provider.calls} == {f"Bearer {KEY}"}
    out = {row["id"]: row for row in desk.read_csv("out.csv")}
    assert out["repeat the key"]["response"] == "It is [secret]."
    for prompt in failed:
        assert SAID.format("[secret]") in out[prompt]["error_message"]
    assert KEY not in ran.stdout + ran.stderr
    files = [path for path in desk.folder.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert [path for path in files if path.parent.name == "logs"]
    ledger = desk.folder / "ledger.db"
    with closing(sqlite3.connect(ledger)) as connection:
        [(run_id,)] = connection.execute("select run_id from runs").fetchall()
    for prompt in ("status 400", "repeat the key"):
        shown = desk.run("show", run_id, prompt, "--json", "--ledger", str(ledger))
        texts = texts_in(shown.summary)
        assert len(texts) > len(prompts)
        assert [text for text in texts if KEY in text] == []
    gates = desk.run("gates", "--ledger", str(ledger))
    doctor = desk.run("doctor", env={"OPENCODE_TASKS_LEDGER": str(ledger)})
    assert KEY not in gates.stdout + gates.stderr + doctor.stdout + doctor.stderr
    assert Path(ledger).stat().st_size


TOKEN = "tok-9z8Y7x6W5v"
PROMPT = "a private sentence of a customer"


@pytest.fixture
def table_url() -> Iterator[str]:
    """URL of a csv table that needs a token."""

    content = f"id,prompt\n1,{PROMPT}\n2,row two\n"

    def table(request: Request) -> Response:
        return Response(content) if request.query_params.get("token") == TOKEN else Response(status_code=403)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(Starlette(routes=[Route("/in.csv", table)]), log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/in.csv?version=3&token="
        server.should_exit = True
        thread.join(timeout=10)


def files_with(text: str, *folders: Path) -> list[str]:
    files = [
        path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    ]
    return [str(path) for path in files if text.encode() in path.read_bytes()]


@pytest.mark.nightly
def test_a_secret_in_an_address_is_stored_nowhere_and_given_again(desk: Desk, table_url: str) -> None:
    refused = Reply(status=401, body={"error": {"message": "no"}})
    desk.provider.on("", refused, refused, Reply(text="fine"))
    home, ledger = Path(os.environ["HOME"]), str(desk.folder / "ledger.db")
    keeps = {"OPENCODE_TASKS_STORE_PROMPTS": "false"}
    arguments = desk.arguments(f"{table_url}{TOKEN}", "-o", "out.csv", "--id-column", "id", "--no-wait")
    paused = desk.run(*arguments, "--concurrency", "1", env=keeps)
    assert paused.code == 75, paused.stderr
    assert TOKEN not in paused.stdout + paused.stderr
    assert files_with(TOKEN, home, desk.folder) == []
    again = desk.run("resume", "--ledger", ledger, env=keeps)
    assert again.code == 2, again.stderr
    assert "the address of INPUT had a secret, which is not stored" in again.stderr
    assert f"{table_url}***): give it again with --input" in again.stderr
    resumed = desk.run("resume", "--ledger", ledger, "--input", f"{table_url}{TOKEN}", env=keeps)
    assert resumed.code == 0, resumed.stderr
    assert [row["status"] for row in desk.read_csv("out.csv")] == ["completed"] * 2
    assert files_with(TOKEN, home, desk.folder) == []
    # OUTPUT repeats the input columns, so it has the prompt; nothing else does.
    assert files_with(PROMPT, home, desk.folder) == [str(desk.folder / "out.csv")]
    [run] = json.loads(desk.run("runs", "--json", "--ledger", ledger).stdout)
    shown = desk.run("show", run["run_id"], "1", "--ledger", ledger)
    assert (shown.code, PROMPT in shown.stdout) == (0, False)


@pytest.mark.scripted
def test_a_prompt_that_a_provider_repeats_is_not_kept(desk: Desk) -> None:
    refusal = {
        "error": {"message": f"the content {PROMPT!r} is not allowed", "type": "invalid_request_error"}
    }
    desk.provider.on("", Reply(status=400, body=refusal))
    desk.write_csv("in.csv", [{"prompt": PROMPT}])
    arguments = desk.arguments("in.csv", "-o", "out.csv")
    ran = desk.run(*arguments, env={"OPENCODE_TASKS_STORE_PROMPTS": "false"})
    assert ran.code == 1, ran.stderr
    [row] = desk.read_csv("out.csv")
    assert PROMPT in row["error_message"]
    kept = {Path(path).name for path in files_with(PROMPT, Path(os.environ["HOME"]), desk.folder)}
    assert kept == {"in.csv", "out.csv"}
    [run] = json.loads(desk.run("runs", "--json", "--ledger", str(desk.folder / "ledger.db")).stdout)
    shown = desk.run("show", run["run_id"], "0", "--ledger", str(desk.folder / "ledger.db")).stdout
    assert "the content '[prompt]' is not allowed" in shown
