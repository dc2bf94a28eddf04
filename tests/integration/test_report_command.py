"""The commands ``opencode-tasks report`` and ``purge``, and the report page in a real browser."""

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
from chromium import open_page
from html_pages import LIMIT_S, LOW_CONTRAST, check_charts, open_checked, run, set_scheme
from selenium.webdriver import Chrome

from opencode_tasks.ledger import Ledger
from opencode_tasks.ledger.schema import attempts, rows, runs, usage

ROOT = Path(__file__).parents[2]
HOSTILE = '</td></text><script>document.title="hacked"</script><img src=x onerror=alert(1)>"\'&{{7*7}}'


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


@pytest.mark.slow
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
    text = open_checked(browser, page, width, charts=3)
    assert browser.title.startswith("Cost of opencode-tasks runs")

    def evaluate(code: str) -> Any:
        return browser.execute_script(f"return {code}")

    headings = evaluate("Array.from(document.querySelectorAll('h2')).map(h => h.textContent)")
    assert {"Cost over time", "Cost by model", "Cost by deployment", "Tokens"} <= set(headings)
    assert {"Failures and their cost", "Most expensive rows", "How costs are computed"} <= set(headings)
    if which == "hostile":
        assert HOSTILE in text
        assert "difference" in text
        assert evaluate("document.querySelectorAll('.warn').length") > 0


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_readable_on_light_and_dark_screens(hostile: Path, browser: Chrome, scheme: str) -> None:
    set_scheme(browser, scheme)
    open_page(browser, hostile.as_uri(), width=1280)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(244, 246, 248)", "dark": "rgb(18, 23, 28)"}[scheme]
    assert browser.execute_script(LOW_CONTRAST) == []
    set_scheme(browser, None)


def test_charts_are_described_and_contain_no_code(hostile: Path) -> None:
    charts = check_charts(hostile.read_text(encoding="utf-8"))
    assert len(charts) >= 9
    assert HOSTILE in "".join(charts)
