"""A key that the provider repeats appears in nothing that a run writes."""

from __future__ import annotations

import base64
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cluster import Desk

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


@pytest.mark.parametrize("backend", ["server", "cli"])
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
    with sqlite3.connect(ledger) as connection:
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
