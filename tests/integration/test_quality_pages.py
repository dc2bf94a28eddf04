"""The pages of ``choose``, ``compare`` and the quality in ``report``, in a real browser, wide and narrow."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from chromium import open_page
from html_pages import LOW_CONTRAST, check_charts, open_checked, run, set_scheme
from selenium.webdriver import Chrome
from sqlalchemy import bindparam
from view_runs import HOSTILE, LABELS, add_run

from opencode_tasks.engine.choose import Choice, Standing
from opencode_tasks.ledger import GoldValue, Ledger
from opencode_tasks.ledger.schema import rows, runs
from opencode_tasks.quality.candidates import Candidate, Measured, winner
from opencode_tasks.reports.choice_page import choice_page
from opencode_tasks.reports.comparison_page import MAX_CHANGED

WIDTHS = [1280, 390]
NOW = datetime(2026, 11, 27, 14, 30, tzinfo=UTC)
# As a page shows it.
SHOWN = HOSTILE.replace("\x00", "\ufffd")


# The page of a choice


def measured(name: str, asked: int, correct: int, cost: float | None) -> Measured:
    return Measured(
        candidate=Candidate(model=name, variant=None),
        rows=asked,
        correct=correct,
        costs_usd=[cost] * asked,
        seconds=[1.5] * asked,
    )


FEW = [
    measured("anthropic/claude-haiku-4-5", 200, 188, 0.00042),
    measured("openai/gpt-5-mini", 200, 176, 0.00019),
    measured("anthropic/claude-sonnet-4-5", 200, 194, 0.0016),
    measured("openai/gpt-5-nano", 40, 22, 0.00004),
    measured("down/never-answered", 0, 0, None),
]
RANDOM = random.Random(4)
MANY = [
    *(
        measured(f"openrouter/vendor/{'long-' * 12}{number:02}", asked, int(asked * share), cost)
        for number in range(20)
        for asked in (RANDOM.choice((20, 40, 200)),)
        for share, cost in ((RANDOM.uniform(0.5, 1), 10 ** RANDOM.uniform(-6, -1)),)
    ),
    measured("local/free", 200, 150, 0.0),
    measured("private/unpriced", 200, 190, None),
    measured(HOSTILE, 200, 195, 0.003),
]


def write_choice(path: Path, found: Sequence[Measured], target: float = 0.9) -> Path:
    chosen = winner(found, target)
    standings = [Standing(measured=one, dropped=None if one.rows == 200 else HOSTILE) for one in found]
    page = choice_page(
        Choice(target=target, rows=200, standings=standings, chosen=chosen),
        task={"template": f"Positive or negative? {HOSTILE}", HOSTILE: HOSTILE},
        command=None if chosen is None else f"opencode-tasks annotate reviews.csv {HOSTILE}",
        now=NOW,
        source=HOSTILE,
    )
    path.write_text(page.replace("\x00", "\ufffd"), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["few", "many"])
def test_the_page_of_a_choice_is_complete_and_readable(
    browser: Chrome, tmp_path: Path, which: str, width: int
) -> None:
    found = {"few": FEW, "many": MANY}[which]
    text = open_checked(browser, write_choice(tmp_path / "page.html", found), width, charts=1)
    # The rest has characters that a title of a browser shows otherwise.
    assert browser.title.startswith(f"Choice of a model for {SHOWN[:80]}")
    cells = browser.execute_script(
        "return Array.from(document.querySelectorAll('tbody tr'))"
        ".map(row => Array.from(row.cells).map(cell => cell.textContent))"
    )
    assert [line[0] for line in cells] == [str(number) for number in range(1, len(found) + 1)]
    assert [line[1] for line in cells] == [one.candidate.name.replace("\x00", "\ufffd") for one in found]
    marked = browser.execute_script(
        "return Array.from(document.querySelectorAll('.chart svg')).filter(svg => svg.clientWidth)"
        ".map(svg => [svg.querySelectorAll('g > title').length, svg.querySelectorAll('g rect.s2').length])"
    )
    # Each measured model has a point, and one of them is the chosen one.
    assert marked == [[sum(one.rows > 0 for one in found), 1]]
    assert SHOWN in text
    assert "target 90%" in text
    if which == "few":
        assert "Chosen: anthropic/claude-haiku-4-5" in text
        assert [line[2:5] for line in cells[:2]] == [
            ["94.0% 89.8% to 96.5%", "$0.00042", "$0.000447"],
            ["88.0% 82.8% to 91.8%", "$0.00019", "$0.000216"],
        ]
        assert (cells[1][7], cells[2][7]) == (
            "below the target",
            "reaches the target, and costs more or an unknown amount",
        )
        assert cells[4][2:6] == ["-", "unknown", "unknown", "-"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_chart_of_a_choice_is_readable_on_light_and_dark_screens(
    browser: Chrome, tmp_path: Path, scheme: str
) -> None:
    set_scheme(browser, scheme)
    open_page(browser, write_choice(tmp_path / "page.html", MANY).as_uri(), width=1280)
    assert browser.execute_script(LOW_CONTRAST) == []
    set_scheme(browser, None)


def test_a_choice_without_a_winner_or_known_costs_has_a_page(tmp_path: Path) -> None:
    unpriced = [replace(one, costs_usd=[None] * one.rows) for one in FEW]
    page = write_choice(tmp_path / "page.html", unpriced, target=0.999).read_text(encoding="utf-8")
    assert "No model reaches 99.9%" in page
    assert "opencode-tasks annotate" not in page
    assert all("no model is chosen" in text for text in check_charts(page))
    nothing = write_choice(tmp_path / "page.html", FEW[-1:]).read_text(encoding="utf-8")
    assert check_charts(nothing) == []


# The pages of a ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(str(tmp_path / "ledger.db")) as opened:
        yield opened


def fill(ledger: Ledger, run_id: str, answers: Sequence[str], gold: Sequence[str], prompt: str) -> None:
    """Write a run of rows that all have an answer, and its gold values."""
    ids = [f"r{number}" for number in range(len(answers))]
    add_run(ledger, run_id, [(one, f"{one} {prompt}") for one in ids], schema={"enum": [*LABELS, SHOWN]})
    statement = rows.update().where(rows.c.run_id == run_id, rows.c.row_id == bindparam("of_row"))
    values = [
        {"of_row": one, "response": answer, "structured": answer, "status": "completed", "cost_pico": 10**9}
        for one, answer in zip(ids, answers, strict=True)
    ]
    with ledger._database.engine.execution_options(ledger_write=True).begin() as connection:
        connection.execute(statement, values)
        connection.execute(runs.update().where(runs.c.run_id == run_id).values(model_ref=HOSTILE))
    known = [*zip(ids, gold, answers, strict=False)]
    ledger.gold.add(run_id, [GoldValue(row_id=one, field="response", value=value) for one, value, _ in known])
    ledger.gold.set_correct(run_id, [(one, "response", value == answer) for one, value, answer in known])


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return run(*arguments, "--ledger", "ledger.db", folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_comparison_has_the_changed_rows(
    ledger: Ledger, browser: Chrome, tmp_path: Path, width: int
) -> None:
    gold = ["positive"] * 6 + [SHOWN] * 4
    fill(ledger, "first", ["positive"] * 8 + ["negative"] * 2, gold, HOSTILE)
    fill(ledger, "second", ["positive"] * 5 + ["negative"] + [SHOWN] * 4, gold, HOSTILE)
    done = command(tmp_path, "compare", "first", "second", "--html", "page.html")
    assert (done.returncode, b"-> page.html" in done.stderr) == (0, True), done.stderr
    assert b"50.0% of 10 rows agree" in done.stdout
    text = open_checked(browser, tmp_path / "page.html", width, charts=1)
    assert "50.0% of 10 rows have equal answers; 5 differ." in text
    assert "right in A alone 1, in B alone 4. McNemar's exact test: p = 0.375" in text
    tables = browser.execute_script(
        "return Array.from(document.querySelectorAll('table')).map(table => Array.from(table.rows)"
        ".map(row => Array.from(row.cells).map(cell => cell.textContent)))"
    )
    assert [line[2:5] for line in tables[0][1:3]] == [["10", "0", "$0.01"]] * 2
    assert tables[0][3][4] == "equal"
    # Answers of A in lines, of B in columns.
    assert [line[1:] for line in tables[1]] == [
        [SHOWN.strip(), "negative", "positive"],
        ["0", "0", "0"],
        ["2", "0", "0"],
        ["2", "1", "5"],
    ]
    assert tables[2][1][0] == "r5"
    assert tables[2][1][2:] == ["positive", "negative", "positive"]
    assert tables[2][2] == ["r6", f"r6 {SHOWN}", "positive", SHOWN, SHOWN]
    bold = browser.execute_script(
        "return Array.from(document.querySelectorAll('td.text.chosen')).map(cell => cell.textContent)"
    )
    assert bold == ["positive", *[SHOWN] * 4]


def test_a_long_comparison_says_what_is_left_out(ledger: Ledger, tmp_path: Path) -> None:
    count = MAX_CHANGED + 7
    fill(ledger, "first", ["positive"] * count, [], "<b>x</b>" * 200)
    fill(ledger, "second", ["negative"] * count, [], "")
    assert command(tmp_path, "compare", "first", "second", "--html", "page.html").returncode == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('<td class="text prompt"') == MAX_CHANGED
    assert "7 more differ: <code>opencode-tasks compare first second --json</code> lists all" in page
    assert "<b>x" not in page
    assert len(page) < 2_000_000
    refused = command(tmp_path, "compare", "first", "second", "--html", "no/page.html")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"the folder no does not exist" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_has_the_quality_of_runs_and_models(
    ledger: Ledger, browser: Chrome, tmp_path: Path, width: int
) -> None:
    fill(ledger, "first", ["positive"] * 10, ["positive"] * 9 + ["negative"], HOSTILE)
    fill(ledger, "second", ["positive"] * 10, ["positive"] * 6 + ["negative"] * 2, "")
    with ledger._database.engine.execution_options(ledger_write=True).begin() as connection:
        connection.execute(runs.update().where(runs.c.run_id == "second").values(votes=3))
        values = {"votes": "[]", "agreement": 2 / 3, "needs_review": False, "escalated": True}
        connection.execute(rows.update().where(rows.c.run_id == "second").values(values))
        of_row = (rows.c.run_id == "second") & (rows.c.row_id == "r1")
        connection.execute(rows.update().where(of_row).values(needs_review=True, agreement=1.0))
    assert command(tmp_path, "report", "--html", "page.html").returncode == 0
    open_checked(browser, tmp_path / "page.html", width, charts=2)
    section = browser.execute_script(
        "const [section] = Array.from(document.querySelectorAll('section'))"
        ".filter(one => one.querySelector('h2').textContent === 'Quality');"
        "return Array.from(section.querySelectorAll('table')).map(table => Array.from(table.tBodies[0].rows)"
        ".map(row => Array.from(row.cells).map(cell => cell.textContent)))"
    )
    by_model, by_run, votes = section
    assert by_model == [[SHOWN, "response", "83.3% 60.8% to 94.2%", "18", "0"]]
    assert by_run == [
        ["first", SHOWN, "response", "90.0% 59.6% to 98.2%", "10", "0"],
        ["second", SHOWN, "response", "75.0% 40.9% to 92.9%", "8", "0"],
    ]
    assert votes == [["second", SHOWN, "3", "10", "70.0%", "1", "10"]]
    later = command(tmp_path, "report", "--since", "2026-03-02", "--html", "later.html")
    assert later.returncode == 0
    assert "<h2>Quality</h2>" not in (tmp_path / "later.html").read_text(encoding="utf-8")


def test_a_report_without_gold_values_and_votes_has_no_section_for_them(
    ledger: Ledger, tmp_path: Path
) -> None:
    fill(ledger, "first", ["positive"] * 3, [], "")
    assert command(tmp_path, "report", "--html", "page.html").returncode == 0
    assert "<h2>Quality</h2>" not in (tmp_path / "page.html").read_text(encoding="utf-8")
