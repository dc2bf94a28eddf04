"""The smallest form of ``benchmarks/speed.py`` runs, and what it counts is what was asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = 6


@pytest.mark.slow
@pytest.mark.usefixtures("opencode_binary")
def test_smallest_form(tmp_path: Path) -> None:
    told = tmp_path / "speed.json"
    words = ["--quick", "--ways", "floor", "--rows", str(ROWS), "--markdown", "--json", str(told)]
    done = subprocess.run(
        [sys.executable, "benchmarks/speed.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    # Had the provider not been asked for each row exactly once, the run would be void and the code 1.
    assert done.returncode == 0, done.stderr
    assert "| bare client, 2 servers | 32 | - | 0 s | 1 | 6 |" in done.stdout
    again = [sys.executable, "benchmarks/speed.py", "--again", str(told), "--markdown"]
    assert subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=True).stdout == done.stdout
    runs = json.loads(told.read_text())["runs"]
    assert {run["servers"] for run in runs} == {1, 2}
    for run in runs:
        assert (run["rows"], run["faults"]) == (ROWS, [])
        figures = run["figures"]
        assert figures["rows_per_s"] > 0
        assert figures["peak_rss"] >= figures["peak_pss"] > 100e6
        assert figures["first_row_s"] > 0
        assert figures["cpu_s"] > 0
