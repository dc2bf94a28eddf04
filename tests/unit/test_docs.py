"""The generated parts of the documentation are what the code says today."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from pictures import MAX_BYTES, PICTURES

from opencode_tasks.domain.cost import read_own_prices

ROOT = Path(__file__).parents[2]


def test_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_diagrams_are_drawn_from_their_sources() -> None:
    done = subprocess.run(
        [sys.executable, "docs/scripts/diagrams.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    drawn = {path.stem for path in (ROOT / "docs" / "diagrams").glob("*.svg")}
    assert drawn == {path.stem for path in (ROOT / "docs" / "diagrams").glob("*.mmd")}


def test_no_page_holds_a_diagram_that_needs_a_network() -> None:
    """A mermaid block is drawn by a script from another host; its picture is committed instead."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    assert [page.name for page in pages if "```mermaid" in page.read_text(encoding="utf-8")] == []


def test_pictures_are_there_and_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "assets").iterdir()}
    assert set(sizes) == set(PICTURES)
    assert max(sizes.values()) <= MAX_BYTES


def test_the_dashboards_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "deployments/dashboards/make.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_prices_that_the_page_shows_can_be_read() -> None:
    pages = sorted((ROOT / "docs" / "explanation").glob("*.md"))
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    fenced = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    [prices] = [block for language, block in fenced if language == "json"]
    found, faults = read_own_prices(json.loads(prices), "the page")
    assert list(found) == ["my-provider/my-model"]
    assert faults == []
