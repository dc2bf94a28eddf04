"""``make live`` against a provider that behaves like the scripted one, and against one that does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from live import script

from opencode_tasks.testing import Reply, ScriptedProvider

SCRIPT = Path(__file__).parents[1] / "live.py"


def tried(folder: Path, binary: Path, provider: ScriptedProvider) -> subprocess.CompletedProcess[str]:
    config = folder / "opencode.json"
    config.write_text(json.dumps(provider.opencode_config(name="house")))
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--model", "house/echo", "--opencode-config", str(config)],
        env=os.environ | {"OPENCODE_TASKS_OPENCODE_BIN": str(binary)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.nightly
def test_what_differs_is_printed(tmp_path: Path, opencode_binary: Path) -> None:
    with ScriptedProvider() as provider:
        provider.on("Reply with the word blue.", Reply(text="blue", reports_usage=False))
        script(provider, "chat")
        ran = tried(tmp_path, opencode_binary, provider)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "cost_source: 'unpriced', scripted 'reported'" in ran.stdout
    assert ran.stdout.count("the same") == 4
