"""Each public entry point from each kind of code: script, notebook, flow, task, sync and async."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opencode_tasks.testing import Call, Reply, ScriptedProvider

SCRIPT = Path(__file__).parents[1] / "entry_points.py"
KEY = "sk-of-the-block"
LIMIT_S = 500
CALLERS = {
    *("in_notebook", "in_flow", "in_async_flow", "in_sync_subflow_of_async"),
    *("in_submitted_task", "in_async_task"),
}
# The value of each call, and the artifacts that it leaves in Prefect.
RESULTS: dict[str, list[object]] = {
    "annotate": [["one"], []],
    "annotate_dataset": [1, ["opencode-cost", "opencode-progress"]],
    "cost_report": [
        3,
        ["opencode-cost-report", "opencode-cost-report-page", "opencode-cost-report-table"],
    ],
    "opencode_task": ["one", []],
}


def has_other_key(call: Call) -> bool:
    return call.authorization != f"Bearer {KEY}"


@pytest.mark.nightly
def test_blocks_artifacts_and_forms_work_from_every_kind_of_code(
    tmp_path: Path, provider: ScriptedProvider, opencode_binary: Path, prefect_server: str
) -> None:
    provider.on(has_other_key, Reply(status=401)).on("expensive", Reply(output_tokens=4000))
    given = {
        "folder": str(tmp_path),
        "config": provider.opencode_config(api_key=None),
        "binary": str(opencode_binary),
        "key": KEY,
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "PREFECT_API_URL": prefect_server},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    calls = {(name, caller): found for name, caller, *found in lines}
    for name in ("pausing_flow", "async_pausing_flow"):
        deployment = f"{name.replace('_', '-')}/paused"
        expected = ["Suspended", 0.012, ["opencode-tasks-pause"], deployment]
        assert calls.pop(("pause", name)) == expected
    for caller in ("in_notebook", "in_async_flow"):
        assert calls.pop(("OpenCodeLLM", caller)) == ["one", []]
    assert calls == {(name, caller): RESULTS[name] for name in RESULTS for caller in CALLERS}
