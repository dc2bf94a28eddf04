"""``opencode-tasks report`` and ``purge`` as a user runs them, and the page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chromium import open_page, requested
from selenium.webdriver import Chrome

from opencode_tasks.ledger import Ledger
from opencode_tasks.ledger.tables import attempts, rows, runs, usage

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("opencode-tasks")
LIMIT_S = 120
HOSTILE = '</td></text><script>document.title="hacked"</script><img src=x onerror=alert(1)>"\'&{{7*7}}'


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(COMMAND), *arguments], cwd=folder, capture_output=True, timeout=LIMIT_S, check=False
    )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger of made-up calls."""
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


def test_the_formats_tell_the_same(filled: Path) -> None:
    by = ("--by", "model", "--by", "day")
    told: list[dict[str, Any]] = json.loads(report(filled, *by, "--format", "json"))
    assert list(told[0])[:3] == ["model", "day", "rows"]
    assert sum(line["rows"] for line in told) == 3000
    from_csv = list(csv.DictReader(io.StringIO(report(filled, *by, "--format", "csv").decode())))
    from_parquet = pd.read_parquet(io.BytesIO(report(filled, *by, "--format", "parquet")))
    for name in ("model", "day", "rows", "input_tokens", "cost_usd", "failed_cost_usd"):
        wanted = ["" if line[name] is None else str(line[name]) for line in told]
        assert [line[name] for line in from_csv] == wanted
        column = from_parquet[name].tolist()
        assert ["" if pd.isna(value) else str(value) for value in column] == wanted
    table = report(filled, *by).decode()
    assert all(line["model"] in table for line in told)


def test_focus_has_a_charge_for_each_call(filled: Path) -> None:
    charges = list(csv.DictReader(io.StringIO(report(filled, "--format", "focus").decode())))
    assert len(charges) == 3000
    known = json.loads(report(filled, "--format", "json"))[0]["known_cost_usd"]
    assert sum(float(one["BilledCost"] or 0) for one in charges) == pytest.approx(known)


def test_files_are_written_where_they_are_wanted(filled: Path) -> None:
    out = report(filled, "--format", "csv", "--by", "run", "-o", "runs.csv", "--html", "page.html")
    assert out == b""
    assert len((filled / "runs.csv").read_text().splitlines()) == 3
    assert (filled / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ledger", "none.db"), "there is no ledger none.db yet"),
        (("--ledger", "ledger.db", "--since", "soon"), "--since: 'soon' is neither a day"),
        (("--ledger", "ledger.db", "--html", "no/where.html"), "the folder no does not exist"),
        (("--ledger", "ledger.db", "--import-session", "none.json"), "cannot read none.json"),
        (("--ledger", "ledger.db", "--import-session", "ledger.db"), "--import-session"),
    ],
)
def test_wrong_use_is_told_in_a_line_with_exit_2(
    filled: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run("report", *arguments, folder=filled)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()
    assert not (filled / "none.db").exists()


def test_purge_keeps_the_money(filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "copy")
    folder = tmp_path / "copy"
    before = report(folder, "--by", "label", "--format", "json")
    wrong = run("purge", "--before", "soon", "--ledger", "ledger.db", folder=folder)
    assert wrong.returncode == 2
    done = run("purge", "--before", "2999-01-01", "--ledger", "ledger.db", folder=folder)
    assert done.stdout.decode() == "2 runs with 3000 rows purged\n", done.stderr
    assert report(folder, "--by", "label", "--format", "json") == before
    assert b"positive or negative" not in (folder / "ledger.db").read_bytes()


# In a browser


@pytest.fixture(scope="module")
def hostile(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page over a ledger whose every name and word would run if it could."""
    folder = tmp_path_factory.mktemp("hostile")
    chance = random.Random(1)
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
            "labels": {HOSTILE: f"{HOSTILE} {chance.randint(1, 30)}", "long": "x" * 300},
        }
        line |= {"cost_pico": 10**9}
    for line in lines["attempts"]:
        line |= {"error_type": HOSTILE, "status": "failed", "usage_known": False}
    for line in lines["usage"]:
        line |= {"model_ref": f"{HOSTILE}/{chance.randint(1, 12)}", "price_source": HOSTILE}
        line |= {"cost_reported_pico": 10**9, "cost_computed_pico": 3 * 10**9, "cost_pico": 10**9}
    with Ledger.open(str(folder / "ledger.db")) as ledger:
        writing = ledger._database.engine.execution_options(ledger_write=True)
        with writing.begin() as connection:
            for table in (runs, rows, attempts, usage):
                connection.execute(table.insert(), lines[table.name])
    report(folder, "--html", "page.html")
    return folder / "page.html"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("which", ["filled", "hostile"])
def test_the_page_is_whole_quiet_and_readable(
    request: pytest.FixtureRequest, browser: Chrome, which: str, width: int
) -> None:
    page: Path = request.getfixturevalue(which)
    if which == "filled":
        report(page, "--html", "page.html")
        page = page / "page.html"
    browser.get_log("browser")
    requested(browser)
    open_page(browser, page.as_uri(), width=width)
    assert browser.title.startswith("What opencode-tasks spent")
    assert browser.get_log("browser") == []
    assert [url for url in requested(browser) if not url.startswith(("file:", "data:"))] == []

    def ask(code: str) -> Any:
        return browser.execute_script(f"return {code}")

    assert ask("document.scripts.length") == 0
    assert ask("document.images.length") == 0
    # Nothing sticks out: what is wider than the page scrolls by itself.
    assert ask("document.documentElement.scrollWidth") <= width
    shown = ask(
        "Array.from(document.querySelectorAll('.chart svg'))"
        ".filter(svg => svg.getBoundingClientRect().width > 0)"
        ".map(svg => [svg.getBoundingClientRect().width, svg.viewBox.baseVal.width])"
    )
    assert len(shown) >= 3
    # Drawn for this width: its letters are neither tiny nor huge.
    assert all(0.8 < drawn / natural < 1.4 for drawn, natural in shown)
    headings = ask("Array.from(document.querySelectorAll('h2')).map(h => h.textContent)")
    assert {"Spending over time", "By model", "By deployment", "Tokens"} <= set(headings)
    assert {"Failures and what they cost", "The dearest rows", "Where the figures come from"} <= set(headings)
    if which == "hostile":
        assert HOSTILE in ask("document.body.textContent")
        assert "difference" in ask("document.body.textContent")
        assert ask("document.querySelectorAll('.warn').length") > 0
