"""The work of rows with tools: on a terminal, on the pages of rows, and in the report."""

# Selenium's commands have no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import open_page, requested
from cluster import COMMAND, read_all
from html_pages import open_checked, run
from selenium.webdriver import Chrome
from selenium.webdriver.support.wait import WebDriverWait
from view_runs import add_run, answer, served, work_run

from opencode_tasks.domain.work import WorkResult
from opencode_tasks.ledger import Ledger
from opencode_tasks.reports.tool_use import read_tool_use, tool_use_json
from opencode_tasks.view.static_export import export_rows

TAGS = '</script><script>document.title="hacked"</script><img src=x onerror=alert(1)>'
HOSTILE = f"{TAGS} \x1b[31m\x1b]0;t\x07 \u202e"
LONG_NAME = "d/" + "n" * 3000 + ".py"
DIFF = f"""diff --git a/price.py b/price.py
--- a/price.py
+++ b/price.py
@@ -1 +1,2 @@
-    return 1
+    # {HOSTILE}
+    return 2
diff --git a/{LONG_NAME} b/{LONG_NAME}
@@ -0,0 +1 @@
+{"x" * 5000}
"""
BIG_LINES = 1_000_000
ARTIFACTS = [
    {"path": "out/result.json", "url": "/files/out/result.json", "size_bytes": 12_345, "sha256": "0"},
    {"path": LONG_NAME, "url": f"s3://bucket/{LONG_NAME}", "size_bytes": 7, "sha256": "1"},
    {"path": HOSTILE, "url": "s3://bucket/x", "size_bytes": 5_300_000_000, "sha256": "2"},
]
OUTPUT = "\n".join(f"test {number}" for number in range(300)) + f"\nlast {HOSTILE}\n"
EDITED = WorkResult(
    diff=DIFF,
    files_changed=2,
    lines_added=3,
    lines_removed=1,
    tools_called=json.dumps(["read", "edit", HOSTILE]),
    tools_denied='["edit"]',
    check_passed=False,
    check_output=OUTPUT,
    artifacts=json.dumps(ARTIFACTS),
)


def big_work(folder: Path) -> WorkResult:
    """A row whose diff of 50 MB is in a file."""
    path = folder / "changes.patch"
    line = f"+{'x' * 48}\n"
    path.write_text("diff --git a/big b/big\n--- a/big\n+++ b/big\n@@ -0,0 +1 @@\n" + line * BIG_LINES)
    return WorkResult(diff_url=str(path), files_changed=1, tools_called='["bash"]', check_passed=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ledger of a run whose rows have hostile and huge work."""
    found = tmp_path_factory.mktemp("work")
    other = found / "other.txt"
    other.write_text("a secret of this machine")
    with Ledger.open(str(found / "ledger.db")) as ledger:
        works = {
            "edited": EDITED,
            "big": big_work(found),
            "none": WorkResult(diff="", files_changed=0, tools_called="[]", tools_denied="[]"),
            "elsewhere": WorkResult(diff_url="s3://bucket/changes.patch", files_changed=1),
            "no diff": WorkResult(diff_url=str(other), files_changed=1),
        }
        work_run(ledger, works)
    return found


def on_a_terminal(folder: Path, *arguments: str, **env: str) -> str:
    screen, terminal = os.openpty()
    with subprocess.Popen(
        [COMMAND, *arguments, "--ledger", "ledger.db"],
        cwd=folder,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "200"} | env,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        shown = read_all(screen)
        assert process.wait(60) == 0, shown
    return shown.replace("\r\n", "\n")


@pytest.mark.slow
def test_show_has_the_work_of_a_row_in_colours_and_without_its_controls(folder: Path) -> None:
    shown = on_a_terminal(folder, "show", "work", "edited")
    assert "files changed      2 (3 lines added, 1 removed)\n" in shown
    assert "tools denied       edit\n" in shown
    assert "check              failed\n" in shown
    assert "artifact           out/result.json (12.3 kB) -> /files/out/result.json\n" in shown
    assert f"artifact           d/{'n' * 58}…{'n' * 57}.py (7 bytes) -> s3://bucket/d/" in shown
    assert "(5.3 GB) -> s3://bucket/x\n" in shown
    assert "--- output of the check\n… 281 lines before\ntest 281\n" in shown
    assert "\x1b[31m-    return 1\x1b[0m\n\x1b[32m+    # </script>" in shown
    assert "\x1b[32m+    return 2\x1b[0m\n" in shown
    assert "… [4,501 characters cut]" in shown
    # The only escape sequences are the colours of whole lines.
    assert "␛[31m␛]0;t␇" in shown
    for styled in shown.split("\x1b[")[1:]:
        assert styled.startswith(("0m", "1m", "31m", "32m", "36m")), styled[:40]
    assert "\u202e" not in shown.partition("--- diff")[2].partition("--- attempt")[0]
    assert "\x1b" not in on_a_terminal(folder, "show", "work", "edited", NO_COLOR="1")
    piped = run("show", "work", "edited", "--ledger", "ledger.db", folder=folder).stdout.decode()
    assert "\n-    return 1\n" in piped
    assert "\x1b" not in piped
    kept = json.loads(run("show", "work", "edited", "--json", "--ledger", "ledger.db", folder=folder).stdout)
    assert kept["row"]["diff"] == DIFF


@pytest.mark.slow
def test_show_cuts_a_huge_diff_and_reads_no_other_file(folder: Path) -> None:
    shown = on_a_terminal(folder, "show", "work", "big")
    assert f"--- diff, in the file {folder}/changes.patch\n" in shown
    assert f"\n… {BIG_LINES - 196:,} more lines\n" in shown
    assert len(shown) < 20_000
    assert "--- diff" not in on_a_terminal(folder, "show", "work", "none")
    assert "--- diff, in the file s3://bucket/changes.patch\n" in on_a_terminal(
        folder, "show", "work", "elsewhere"
    )
    shown = on_a_terminal(folder, "show", "work", "no diff")
    assert f"--- diff, in the file {folder}/other.txt\n" in shown
    assert "secret of this machine" not in shown


@pytest.fixture(params=[1280, 390])
def width(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=["server", "export"])
def address(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of the page of a row, with a place for its number and its id; and the first page."""
    with Ledger.open(str(folder / "ledger.db")) as ledger:
        if request.param == "export":
            export_rows(ledger, "work", tmp_path / "pages")
            index = (tmp_path / "pages" / "index.html").as_uri()
            yield index, index + "#row={place}"
            return
        with served(ledger, "work") as found:
            yield found, found.partition("/?")[0] + "/row?id={row}&at={place}"


def row_page(browser: Chrome, address: str, width: int) -> dict[str, Any]:
    """The texts of a row's page, after a check for scripts, foreign hosts and the width."""
    open_page(browser, "about:blank", width=width)
    browser.get_log("browser")
    requested(browser)
    browser.get(address)
    script = """
    const sections = Array.from(document.querySelectorAll('section'));
    const section = title => sections.find(one => one.querySelector('h2').textContent === title);
    const texts = (one, selector) =>
      one ? Array.from(one.querySelectorAll(selector)).map(part => part.textContent) : [];
    const colours = Array.from(document.querySelectorAll('.code .added, .code .removed'))
      .map(one => getComputedStyle(one).color);
    return {
      titles: sections.map(one => one.querySelector('h2').textContent),
      work: texts(section('Work'), 'dt, dd'), output: texts(section('Work'), '.code span'),
      diff: texts(section('Diff'), '.code span'), note: texts(section('Diff'), 'pre:not(.code)'),
      more: texts(section('Diff'), 'p'), colours: new Set(colours).size,
      width: document.documentElement.scrollWidth, title: document.title,
    };
    """
    # An export loads its stories after the page.
    WebDriverWait(browser, 20).until(lambda one: one.execute_script(script)["titles"])
    found = browser.execute_script(script)
    assert browser.get_log("browser") == []
    assert found["width"] <= width
    assert found["title"] != "hacked"
    return found


@pytest.mark.slow
def test_the_page_of_a_row_has_its_work(address: tuple[str, str], browser: Chrome, width: int) -> None:
    first, of_row = address
    open_page(browser, first, width=width)
    page = row_page(browser, of_row.format(row="edited", place=0), width)
    assert page["work"][:8] == [
        *("files changed", "2 (3 lines added, 1 removed)"),
        *("tools called", f"read, edit, {HOSTILE}"),
        *("tools denied", "edit", "check", "failed"),
    ]
    assert page["work"][8:10] == ["out/result.json", "12.3 kB, /files/out/result.json"]
    assert page["work"][-2:] == [HOSTILE, "5.3 GB, s3://bucket/x"]
    assert page["output"][0] == "… 276 lines before\n"
    assert page["output"][-1] == f"last {HOSTILE}\n"
    visible = HOSTILE.replace("\u202e", "\ufffd")
    assert page["diff"][4:7] == ["-    return 1\n", f"+    # {visible}\n", "+    return 2\n"]
    assert page["colours"] == 2
    assert page["more"] == []
    big = row_page(browser, of_row.format(row="big", place=1), width)
    assert big["note"] == [f"in the file {folder_of(big)}"]
    assert len(big["diff"]) == 1000
    assert big["more"] == [f"… {BIG_LINES - 996:,} more lines"]
    none = row_page(browser, of_row.format(row="none", place=2), width)
    assert none["work"] == ["files changed", "0 (0 lines added, 0 removed)"]
    assert "Diff" not in none["titles"]


def folder_of(page: dict[str, Any]) -> str:
    """The address of the file in the note of a page."""
    [note] = page["note"]
    assert note.endswith("/changes.patch")
    return note.removeprefix("in the file ")


def test_rows_with_tools_are_added_up_in_each_database(ledger: Ledger) -> None:
    assert tool_use_json(read_tool_use(ledger.reports, None))["rows"] == 0
    work_run(
        ledger,
        {
            "a": WorkResult(tools_called='["bash", "edit"]', tools_denied="[]", check_passed=True),
            "b": WorkResult(tools_called='["bash"]', tools_denied='["bash"]', check_passed=False),
            "c": WorkResult(tools_called='["bash"]', tools_denied="[]"),
            "d": WorkResult(tools_called="[]", tools_denied="[]"),
        },
    )
    add_run(ledger, "other", [("r", "no tools")])
    answer(ledger, "other", "r", "text")
    found = tool_use_json(read_tool_use(ledger.reports, None))
    assert found == {
        "rows": 3,
        "steps": 3,
        "steps_per_row": 1.0,
        "cost_usd": 0.009,
        "known_cost_usd": 0.009,
        "cost_usd_per_row": 0.003,
        "checked_rows": 2,
        "passed_rows": 1,
        "passed_share": 0.5,
        "tools": [
            {"tool": "bash", "rows": 3, "denied_rows": 1},
            {"tool": "edit", "rows": 1, "denied_rows": 0},
        ],
    }


def test_the_report_has_the_rows_with_tools(folder: Path) -> None:
    ledger = ("--ledger", "ledger.db")
    table = run("report", "--tools", *ledger, folder=folder).stdout.decode()
    assert table.startswith("2 rows with tools, $0.006, 1.0 model calls a row\n")
    assert "\ncheck passed: 1 of 2 (50.0%)\n" in table
    assert "\x1b" not in table
    found = json.loads(run("report", "--tools", "--format", "json", *ledger, folder=folder).stdout)
    assert [(one["tool"], one["rows"], one["denied_rows"]) for one in found["tools"]] == [
        *((HOSTILE, 1, 0), ("bash", 1, 0), ("edit", 1, 1), ("read", 1, 0)),
    ]
    assert json.loads(
        run("report", "--tools", "--format", "json", "--since", "1d", *ledger, folder=folder).stdout
    ) == {**dict.fromkeys(found, 0), "tools": [], **dict.fromkeys(("steps_per_row", "passed_share"))} | {
        "cost_usd": 0.0,
        "known_cost_usd": 0.0,
        "cost_usd_per_row": None,
    }
    for wrong in (("--by", "run"), ("--format", "csv")):
        refused = run("report", "--tools", *wrong, *ledger, folder=folder)
        assert (refused.returncode, refused.stdout) == (2, b"")
        assert b"--tools: --" in refused.stderr


@pytest.mark.slow
def test_the_report_page_has_the_rows_with_tools(folder: Path, browser: Chrome, width: int) -> None:
    assert run("report", "--html", "costs.html", "--ledger", "ledger.db", folder=folder).returncode == 0
    text = open_checked(browser, folder / "costs.html", width, charts=0)
    assert "2 rows whose agent called a tool: $0.006, 1.0 model calls a row." in text
    assert "The check command passed for 1 of 2 (50.0%)." in text
    assert HOSTILE in text
