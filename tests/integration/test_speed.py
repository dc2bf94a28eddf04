"""A small run of ``benchmarks/speed.py``: every prompt is sent once, and the figures are plausible."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = 6


@pytest.mark.nightly
@pytest.mark.usefixtures("opencode_binary")
def test_quick_run_of_the_floor(tmp_path: Path) -> None:
    json_file = tmp_path / "speed.json"
    options = ["--quick", "--methods", "floor", "--rows", str(ROWS), "--markdown", "--json", str(json_file)]
    done = subprocess.run(
        [sys.executable, "benchmarks/speed.py", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    # The exit code is 1 if the provider did not receive each prompt exactly once.
    assert done.returncode == 0, done.stderr
    assert "| bare client, 2 servers | 32 | - | 0 s | 1 | 6 |" in done.stdout
    from_json = [sys.executable, "benchmarks/speed.py", "--from-json", str(json_file), "--markdown"]
    assert (
        subprocess.run(from_json, cwd=ROOT, capture_output=True, text=True, check=True).stdout == done.stdout
    )
    runs = json.loads(json_file.read_text())["runs"]
    assert {run["servers"] for run in runs} == {1, 2}
    for run in runs:
        assert (run["rows"], run["faults"]) == (ROWS, [])
        figures = run["figures"]
        assert figures["rows_per_s"] > 0
        assert figures["peak_rss"] >= figures["peak_pss"] > 100e6
        assert figures["first_row_s"] > 0
        assert figures["cpu_s"] > 0
