"""The commands ``opencode-tasks report`` and ``purge``, and the report page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pandas as pd
import pytest
from chromium import open_page, requested
from forked_commands import loaded_command
from selenium.webdriver import Chrome

from opencode_tasks.ledger import Ledger
from opencode_tasks.ledger.schema import attempts, rows, runs, usage

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("opencode-tasks")
LIMIT_S = 120
HOSTILE = '</td></text><script>document.title="hacked"</script><img src=x onerror=alert(1)>"\'&{{7*7}}'


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    command = [str(COMMAND), *arguments]
    with loaded_command.start(command, folder, os.environ) as started:
        streams: Any = (started.stdout, started.stderr)
        # The lines on stderr are few: they fit into their pipe meanwhile.
        stdout, stderr = (stream.buffer.read() for stream in streams)
        return subprocess.CompletedProcess(command, started.wait(LIMIT_S), stdout, stderr)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger of generated model calls."""
    folder = tmp_path_factory.mktemp("filled")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "reports.py"), "3000", str(folder / "ledger.db")],
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def report(folder: Path, *arguments: str) -> bytes:
    done = run("report", "--ledger", "ledger.db", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_formats_have_the_same_lines(filled: Path) -> None:
    by = ("--by", "model", "--by", "day")
    from_json: list[dict[str, Any]] = json.loads(report(filled, *by, "--format", "json"))
    assert list(from_json[0])[:3] == ["model", "day", "rows"]
    assert sum(line["rows"] for line in from_json) == 3000
    from_csv = list(csv.DictReader(io.StringIO(report(filled, *by, "--format", "csv").decode())))
    from_parquet = pd.read_parquet(io.BytesIO(report(filled, *by, "--format", "parquet")))
    for name in ("model", "day", "rows", "input_tokens", "cost_usd", "failed_cost_usd"):
        expected = ["" if line[name] is None else str(line[name]) for line in from_json]
        assert [line[name] for line in from_csv] == expected
        column = from_parquet[name].tolist()
        assert ["" if pd.isna(value) else str(value) for value in column] == expected
    table = report(filled, *by).decode()
    assert all(line["model"] in table for line in from_json)


def test_focus_has_a_charge_for_each_model_call(filled: Path) -> None:
    charges = list(csv.DictReader(io.StringIO(report(filled, "--format", "focus").decode())))
    assert len(charges) == 3000
    known = json.loads(report(filled, "--format", "json"))[0]["known_cost_usd"]
    assert sum(float(charge["BilledCost"] or 0) for charge in charges) == pytest.approx(known)


def test_output_is_written_to_files(filled: Path) -> None:
    stdout = report(filled, "--format", "csv", "--by", "run", "-o", "runs.csv", "--html", "page.html")
    assert stdout == b""
    assert len((filled / "runs.csv").read_text().splitlines()) == 3
    assert (filled / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ledger", "none.db"), "there is no ledger none.db yet"),
        (("--ledger", "ledger.db", "--since", "soon"), "--since: 'soon' is not a date"),
        (("--ledger", "ledger.db", "--html", "no/where.html"), "the folder no does not exist"),
        (("--ledger", "ledger.db", "--import-session", "none.json"), "cannot read none.json"),
        (("--ledger", "ledger.db", "--import-session", "ledger.db"), "--import-session"),
    ],
)
def test_usage_error_is_one_line_with_exit_code_2(
    filled: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run("report", *arguments, folder=filled)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr.decode()
    assert not (filled / "none.db").exists()


def test_purge_keeps_costs(filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "copy")
    folder = tmp_path / "copy"
    before = report(folder, "--by", "label", "--format", "json")
    invalid = run("purge", "--before", "soon", "--ledger", "ledger.db", folder=folder)
    assert invalid.returncode == 2
    done = run("purge", "--before", "2999-01-01", "--ledger", "ledger.db", folder=folder)
    assert done.stdout.decode() == "2 runs with 3000 rows purged\n", done.stderr
    assert report(folder, "--by", "label", "--format", "json") == before
    assert b"positive or negative" not in (folder / "ledger.db").read_bytes()


# In a browser


@pytest.fixture(scope="module")
def hostile(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a ledger in which all names and texts try to run a script."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = random.Random(1)
    with Ledger.open(str(filled / "ledger.db")) as ledger, ledger._database.engine.connect() as connection:
        lines = {
            table.name: [dict(line) for line in connection.execute(table.select().limit(200)).mappings()]
            for table in (runs, rows, attempts, usage)
        }
    for line in lines["runs"]:
        line |= {"deployment": HOSTILE, "model_ref": HOSTILE}
    for line in lines["rows"]:
        line |= {
            "prompt": HOSTILE,
            "labels": {HOSTILE: f"{HOSTILE} {rng.randint(1, 30)}", "long": "x" * 300},
        }
        line |= {"cost_pico": 10**9}
    for line in lines["attempts"]:
        line |= {"error_type": HOSTILE, "status": "failed", "usage_known": False}
    for line in lines["usage"]:
        line |= {"model_ref": f"{HOSTILE}/{rng.randint(1, 12)}", "price_source": HOSTILE}
        line |= {"cost_reported_pico": 10**9, "cost_computed_pico": 3 * 10**9, "cost_pico": 10**9}
    with Ledger.open(str(folder / "ledger.db")) as ledger:
        writing = ledger._database.engine.execution_options(ledger_write=True)
        with writing.begin() as connection:
            for table in (runs, rows, attempts, usage):
                connection.execute(table.insert(), lines[table.name])
    report(folder, "--html", "page.html")
    return folder / "page.html"


# The labels of all visible charts that overlap another label of their chart or are not inside of it.
BAD_LABELS = """
return Array.from(document.querySelectorAll('.chart svg')).flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  if (!frame.width) return [];
  const labels = Array.from(svg.querySelectorAll('text')).map(text => [text, text.getBoundingClientRect()]);
  // A line box is higher than its letters.
  const overlap = (a, b) =>
    a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom;
  return labels.filter(([text, box]) =>
    box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1 ||
    labels.some(([other, second]) => other !== text && overlap(box, second))
  ).map(([text]) => text.textContent);
});
"""
# Contrast of each text and each series of the charts with the background of its section.
LOW_CONTRAST = """
const luminance = color => color.match(/[0-9.]+/g).slice(0, 3).map(Number).map(value => value / 255)
  .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
const section = getComputedStyle(document.querySelector('section')).backgroundColor;
const contrast = color => {
  const [low, high] = [luminance(color), luminance(section)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
return Array.from(document.querySelectorAll('.chart text, .chart g rect:not(.area)'))
  .map(mark => [mark, getComputedStyle(mark).fill])
  .filter(([mark, fill]) => contrast(fill) < (mark.tagName === 'text' ? 4.5 : 3))
  .map(([mark, fill]) => mark.tagName + ' ' + fill);
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 700, 390])
@pytest.mark.parametrize("which", ["filled", "hostile"])
def test_page_is_complete_and_readable_and_loads_nothing(
    request: pytest.FixtureRequest, browser: Chrome, which: str, width: int
) -> None:
    page: Path = request.getfixturevalue(which)
    if which == "filled":
        report(page, "--html", "page.html")
        page = page / "page.html"
    browser.get_log("browser")
    requested(browser)
    open_page(browser, page.as_uri(), width=width)
    assert browser.title.startswith("Cost of opencode-tasks runs")
    assert browser.get_log("browser") == []
    # The browser's own first page may still load.
    assert [url for url in requested(browser) if not url.startswith(("file:", "data:", "chrome:"))] == []

    def evaluate(code: str) -> Any:
        return browser.execute_script(f"return {code}")

    assert evaluate("document.scripts.length") == 0
    assert evaluate("document.images.length") == 0
    # Only wide tables scroll, not the page.
    assert evaluate("document.documentElement.scrollWidth") <= width
    charts = evaluate(
        "Array.from(document.querySelectorAll('.chart svg'))"
        ".filter(svg => svg.getBoundingClientRect().width > 0)"
        ".map(svg => [svg.getBoundingClientRect().width, svg.viewBox.baseVal.width])"
    )
    assert len(charts) >= 3
    # A drawing for this width, so that its text is neither tiny nor huge.
    assert all(0.8 < shown / natural < 1.4 for shown, natural in charts)
    assert browser.execute_script(BAD_LABELS) == []
    headings = evaluate("Array.from(document.querySelectorAll('h2')).map(h => h.textContent)")
    assert {"Cost over time", "Cost by model", "Cost by deployment", "Tokens"} <= set(headings)
    assert {"Failures and their cost", "Most expensive rows", "How costs are computed"} <= set(headings)
    if which == "hostile":
        assert HOSTILE in evaluate("document.body.textContent")
        assert "difference" in evaluate("document.body.textContent")
        assert evaluate("document.querySelectorAll('.warn').length") > 0


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_readable_on_light_and_dark_screens(hostile: Path, browser: Chrome, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    open_page(browser, hostile.as_uri(), width=1280)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(244, 246, 248)", "dark": "rgb(18, 23, 28)"}[scheme]
    assert browser.execute_script(LOW_CONTRAST) == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_charts_are_described_and_contain_no_code(hostile: Path) -> None:
    page = hostile.read_text(encoding="utf-8")
    charts = [ET.fromstring(found) for found in re.findall(r"<svg .*?</svg>", page, re.DOTALL)]
    assert len(charts) >= 9
    ids = [element.attrib["id"] for chart in charts for element in chart.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    for chart in charts:
        title, description = chart[0], chart[1]
        assert chart.attrib["role"] == "img"
        assert chart.attrib["aria-labelledby"] == f"{title.attrib['id']} {description.attrib['id']}"
        assert title.text
        assert description.text
        elements = list(chart.iter())
        assert {element.tag for element in elements} <= {"svg", "title", "desc", "g", "line", "text", "rect"}
        names = {name for element in elements for name in element.attrib}
        assert not [name for name in names if name.startswith("on") or "href" in name or name == "style"]
    assert HOSTILE in "".join(text for chart in charts for text in chart.itertext())
