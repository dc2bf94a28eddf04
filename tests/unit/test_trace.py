from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from trace_writer import write_many

from opencode_tasks.outcomes.trace import append_trace, render_trace

STARTED = datetime(2026, 5, 1, 9, 8, 7, tzinfo=UTC)


def assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"info": {"role": "assistant"}, "parts": list(parts)}


def tool(name: str | None, state: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool", "tool": name, "callID": "c", "state": state}


def test_a_whole_session() -> None:
    messages = [
        {"info": {"role": "user"}, "parts": [{"type": "text", "text": "asked"}]},
        assistant(
            {"type": "step-start"},
            {"type": "reasoning", "text": "hm"},
            tool("bash", {"status": "completed", "input": {"cmd": "ls é"}, "output": "a\nb"}),
        ),
        assistant(
            tool(None, {"status": "error", "input": {}, "error": "denied"}),
            tool("read", {"status": "running", "input": {}}),
            {"type": "text", "text": ""},
            {"type": "text", "text": "done"},
        ),
    ]
    assert render_trace(messages).split("\n\n") == [
        "[Thinking]\nhm",
        '[Tool Call: bash]\n{"cmd": "ls é"}',
        "[Tool Result]\na\nb",
        "[Tool Call: unknown]\n{}",
        "[Tool Result]\ndenied",
        "[Tool Call: read]\n{}",
        "[Response]\ndone",
    ]


def test_long_values_are_cut_with_a_mark() -> None:
    state = {"status": "completed", "input": {"a": "y" * 3000}, "output": "x" * 3234}
    text = render_trace([assistant(tool("t", state), {"type": "text", "text": "z" * 2000})])
    assert "x" * 2000 + "… [1,234 characters cut]" in text
    assert "x" * 2001 not in text
    assert "y" * 2001 not in text
    assert text.endswith("z" * 2000)


def test_nothing_to_show() -> None:
    assert render_trace([]) == ""
    assert render_trace([{"info": {}, "parts": None}]) == ""


def test_an_entry_has_its_header_and_a_private_file(tmp_path: Path) -> None:
    path = append_trace(
        tmp_path / "new", "a/b", STARTED, prompt="p" * 600 + "\ud800", session_id=None, trace="t\ud800"
    )
    assert path == tmp_path / "new" / "a_b_20260501_090807.log"
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert "Time: 2026-05-01T09:08:07+00:00\nSession: unknown\n" in text
    assert f"Prompt: {'p' * 500}\n" in text
    assert "t\\ud800" in text


def test_entries_stay_whole_between_threads_and_processes(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as processes, ThreadPoolExecutor(4) as threads:
        pools = (processes, processes, threads, threads, threads, threads)
        for future in [pool.submit(write_many, str(tmp_path), STARTED, n) for n, pool in enumerate(pools)]:
            future.result()
    (path,) = tmp_path.iterdir()
    entries = path.read_text().split("Time: ")[1:]
    sessions = [entry.split("Session: ")[1].split("\n")[0] for entry in entries]
    assert sorted(sessions) == sorted(f"ses_{w}x{n}" for w in range(6) for n in range(20))
    assert all(session * 5000 + "\n\n" in entry for session, entry in zip(sessions, entries, strict=True))
