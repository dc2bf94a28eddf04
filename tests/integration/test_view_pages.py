"""The pages of ``opencode-tasks view`` and of its export in a real browser, wide and narrow."""

# Selenium's commands have no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from chromium import open_page, requested
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait
from view_runs import (
    HOSTILE,
    HOSTILE_CHOICE,
    HOSTILE_IDS,
    add_run,
    answer,
    hostile_run,
    labelled_run,
    served,
)

from opencode_tasks.ledger import Ledger
from opencode_tasks.view.static_export import export_rows

pytestmark = pytest.mark.slow

WIDTHS = [1280, 390]
LIMIT_S = 10.0
# Contrast of all texts with the background behind them.
LOW_CONTRAST = """
const numbers = color => color.match(/[0-9.]+/g).map(Number);
const luminance = color => numbers(color).slice(0, 3).map(value => value / 255)
  .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
const behind = one => {
  for (; one; one = one.parentElement) {
    const color = getComputedStyle(one).backgroundColor;
    if (numbers(color)[3] !== 0) return color;
  }
  return getComputedStyle(document.documentElement).backgroundColor;
};
return Array.from(document.querySelectorAll('main *'))
  .filter(one => one.checkVisibility() && !one.closest('[aria-disabled]'))
  .filter(one => Array.from(one.childNodes).some(node => node.nodeType === 3 && node.data.trim()))
  .filter(one => {
    const both = [luminance(getComputedStyle(one).color), luminance(behind(one))];
    const [low, high] = both.sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05) < 4.5;
  })
  .map(one => one.tagName + ' ' + one.textContent.slice(0, 40));
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(str(tmp_path / "ledger.db")) as opened:
        yield opened


def follow(browser: Chrome, by: str, value: str) -> None:
    """Click a link or button, and wait until its page has replaced this one: the click may return before."""
    before = browser.find_element(By.TAG_NAME, "html")
    browser.find_element(by, value).click()
    WebDriverWait(browser, LIMIT_S).until(staleness_of(before))


class Page:
    """A page in the browser. ``check`` finds errors of scripts, foreign hosts and a page that is too wide."""

    def __init__(self, browser: Chrome, address: str, width: int) -> None:
        self.browser = browser
        self.width = width
        self.host = address.partition("/?")[0]
        browser.get_log("browser")
        requested(browser)
        open_page(browser, address, width=width)
        self.wait_for(self.is_loaded)

    def open(self, path: str) -> None:
        self.browser.get(self.host + path)
        self.wait_for(self.is_loaded)

    def is_loaded(self) -> bool:
        """Whether the style and the script are there: chromedriver sometimes returns before."""
        return self.evaluate("document.readyState") == "complete"

    def evaluate(self, code: str) -> Any:
        return self.browser.execute_script(f"return {code}")

    def texts(self, selector: str) -> list[str]:
        return self.evaluate(
            f"Array.from(document.querySelectorAll({selector!r})).filter(one => one.checkVisibility())"
            ".map(one => one.textContent.trim())"
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def wait_for(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not (self.is_loaded() and condition()):
            assert time.monotonic() < deadline, self.texts("main")
            time.sleep(0.05)

    def row(self) -> str:
        return next(iter(self.texts("h1 bdi")), "")

    def check(self) -> None:
        assert self.browser.get_log("browser") == []
        assert [one for one in requested(self.browser) if not one.startswith(self.host)] == []
        assert self.evaluate("document.documentElement.scrollWidth") <= self.width
        assert self.evaluate("document.title") != "hacked"
        if self.width == max(WIDTHS):
            tables = "[...document.querySelectorAll('.story .scroll')]"
            is_cut = "one => one.scrollWidth > one.clientWidth"
            assert self.evaluate(f"{tables}.filter({is_cut}).map(one => one.innerText)") == []


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest) -> int:
    return request.param


def test_rows_are_listed_filtered_and_opened(ledger: Ledger, browser: Chrome, width: int) -> None:
    labelled_run(ledger, rows=250)
    with served(ledger, "labelled") as address:
        page = Page(browser, address, width)
        assert "token" not in page.evaluate("location.href")
        assert len(page.texts("[data-row]")) == 100
        assert page.texts(".place")[0] == "1 to 100 of 250 rows"
        follow(browser, By.LINK_TEXT, "Next")
        assert page.texts(".place")[0] == "101 to 200 of 250 rows"
        page.browser.back()
        page.wait_for(lambda: page.texts("[data-row]")[0] == "r0")
        page.press("/")
        page.press("NUMBER 24", Keys.ENTER)
        page.wait_for(lambda: "q=NUMBER" in page.evaluate("location.href"))
        assert page.texts("[data-row]") == ["r24", *(f"r{i}" for i in range(240, 250))]
        assert page.evaluate("document.querySelector('[name=q]').value") == "NUMBER 24"
        page.check()
        page.open("/?status=failed&reviewed=no")
        follow(browser, By.LINK_TEXT, "r3")
        assert page.row() == "r3"
        assert page.texts(".place") == ["1 of 1"]
        assert "HTTP 400: no such prompts" in page.texts("main")[0]
        assert (
            page.evaluate("document.querySelector('a[data-key=l]').getAttribute('href')")
            == "/?status=failed&reviewed=no"
        )
        page.check()


def test_a_list_shows_what_differs_between_prompts(ledger: Ledger, browser: Chrome, tmp_path: Path) -> None:
    start = "Which label fits this review of a customer? "
    add_run(ledger, "same", [("a", f"{start}Works well.")], template=start + "{text}")
    with served(ledger, "same") as address:
        page = Page(browser, address, 1280)
        assert page.texts("td[data-title=prompt]") == ["…Works well."]
        page.open("/row?id=a&at=0")
        assert f"{start}Works well." in page.texts("main")[0]
    export_rows(ledger, "same", tmp_path / "out")
    page = Page(browser, (tmp_path / "out" / "index.html").as_uri(), 1280)
    assert page.texts("td[data-title=prompt]") == ["…Works well."]


def test_a_row_has_its_whole_story(ledger: Ledger, browser: Chrome, width: int) -> None:
    labelled_run(ledger)
    ledger.results.row("labelled", "r1")
    with served(ledger, "labelled") as address:
        page = Page(browser, address, width)
        page.open("/row?id=r1&at=1")
        titles = page.texts("section h2")
        assert titles[:4] == ["Prompt", "Answer", "System text", "Labels"]
        assert titles[4:6] == ["Attempts", "Model calls"]
        page.browser.find_element(By.CSS_SELECTOR, "details").click()
        story = page.texts("main")[0]
        for text in (
            *("Review number 1: works well", "You label reviews.", "search", "retry 1 inside of the attempt"),
            *(
                "Overloaded",
                "1,234",
                "$0.003",
                "I think: negative",
                "Tool Call: lookup",
                '"word": "negative"',
            ),
            *("found negative", "the prompt as it was sent"),
        ):
            assert text in story
        page.check()


def test_the_keys_correct_confirm_and_undo(ledger: Ledger, browser: Chrome, width: int) -> None:
    labelled_run(ledger)

    def stored(row_id: str) -> tuple[str, str | None]:
        [line] = ledger.row_list.lines("labelled", [row_id])
        return line["structured"], line["answered_by"]

    with served(ledger, "labelled") as address:
        page = Page(browser, address, width)
        page.press("j", "j", Keys.ENTER)
        page.wait_for(lambda: page.row() == "r1")
        page.press("j")
        page.wait_for(lambda: page.row() == "r2")
        assert page.texts(".place") == ["3 of 6"]
        page.press("k")
        page.wait_for(lambda: page.row() == "r1")
        page.press("n", "not sure", Keys.ESCAPE, "3", Keys.ENTER)
        page.wait_for(lambda: page.row() == "r2")
        assert stored("r1") == ("neutral", "maria")
        assert ledger.row_list.reviews("labelled", ["r1"])["r1"][0]["note"] == "not sure"
        assert "Row r1 is reviewed." in page.texts(".done span")
        page.press(Keys.ENTER)
        page.wait_for(lambda: page.row() == "r3")
        assert stored("r2") == ("neutral", "maria")
        page.press("1", Keys.ENTER)
        page.wait_for(lambda: page.row() == "r4")
        assert stored("r3") == ("positive", "maria")
        page.press("u")
        page.wait_for(lambda: page.row() == "r3")
        assert ledger.row_list.lines("labelled", ["r3"])[0]["status"] == "failed"
        page.press("k")
        page.wait_for(lambda: page.row() == "r2")
        page.press("k")
        page.wait_for(lambda: page.row() == "r1")
        page.press("u")
        page.wait_for(lambda: page.row() == "r1" and stored("r1") == ("negative", None))
        page.press("?")
        assert page.evaluate("document.querySelector('#help').open")
        page.press(Keys.ESCAPE)
        assert not page.evaluate("document.querySelector('#help').open")
        page.check()


def test_a_held_key_confirms_and_undoes_nothing(ledger: Ledger, browser: Chrome) -> None:
    labelled_run(ledger)

    def hold(key: str, text: str = "") -> None:
        for is_repeat in (False, True, True):
            event = {"type": "keyDown", "key": key, "code": key, "text": text, "autoRepeat": is_repeat}
            browser.execute_cdp_cmd("Input.dispatchKeyEvent", event)
            page.wait_for(page.is_loaded)
        browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp", "key": key, "code": key})

    def reviewed() -> list[str]:
        every = ledger.row_list.lines("labelled", [f"r{at}" for at in range(6)])
        return [line["row_id"] for line in every if line["answered_by"]]

    with served(ledger, "labelled") as address:
        page = Page(browser, address, 1280)
        page.open("/row?id=r0&at=0")
        hold("Enter", "\r")
        page.wait_for(lambda: page.row() == "r1")
        assert reviewed() == ["r0"]
        # A focused choice sends its form by Enter in the browser itself.
        page.press("1")
        hold("Enter", "\r")
        page.wait_for(lambda: page.row() == "r2")
        assert reviewed() == ["r0", "r1"]
        hold("ArrowRight")
        page.wait_for(lambda: page.row() == "r5")
        assert reviewed() == ["r0", "r1"]


def test_a_review_that_leaves_the_list_goes_to_the_row_that_took_its_place(
    ledger: Ledger, browser: Chrome
) -> None:
    labelled_run(ledger)
    with served(ledger, "labelled") as address:
        page = Page(browser, address, 1280)
        page.open("/?reviewed=no&sort=-row_id")
        page.press("j", Keys.ENTER)
        seen: list[str] = []
        for _ in range(5):
            page.wait_for(lambda: page.row() not in ("", *seen))
            seen.append(page.row())
            page.press("1", Keys.ENTER)
        page.wait_for(lambda: page.row() == "r0")
        assert seen == ["r5", "r4", "r3", "r2", "r1"]
        page.press("u")
        page.wait_for(lambda: page.row() == "r1")
        page.press("l")
        page.wait_for(lambda: page.texts("[data-row]") == ["r1", "r0"])
        page.check()


def test_a_live_run_is_followed_without_losing_the_place(ledger: Ledger, browser: Chrome) -> None:
    labelled_run(ledger, rows=60, open_rows=2)
    with served(ledger, "labelled") as address:
        page = Page(browser, address, 1280)
        assert "2 open" in page.texts(".facts span")
        page.browser.execute_script(
            "document.querySelectorAll('[data-row]')[50].focus(); scrollTo(0, 900); window.kept = true"
        )
        before = page.evaluate("scrollY")
        answer(ledger, "labelled", "r58", "neutral", "neutral")
        page.wait_for(lambda: "1 open" in page.texts(".facts span"))
        answer(ledger, "labelled", "r59", "neutral", "neutral")
        ledger.runs.end("labelled", status="completed", now=ledger.runs.newest(limit=1)[0]["created_at"])
        page.wait_for(lambda: "59 completed" in page.texts(".facts span"))
        assert page.evaluate("[window.kept, scrollY, document.activeElement.textContent]") == [
            True,
            before,
            "r50",
        ]
        page.check()


def test_the_page_of_a_row_in_flight_shows_its_end_and_keeps_what_a_person_enters(
    ledger: Ledger, browser: Chrome
) -> None:
    labelled_run(ledger, rows=6, open_rows=2)
    with served(ledger, "labelled") as address:
        page = Page(browser, address, 1280)
        page.open("/row?id=r4&at=4")
        assert page.texts(".status") == ["open"]
        page.browser.execute_script("window.kept = true")
        # Another row that ends changes nothing here.
        version = page.evaluate("document.querySelector('main').dataset.version")
        answer(ledger, "labelled", "r5", "neutral", "neutral")
        answer(ledger, "labelled", "r4", "negative", "negative")
        page.wait_for(lambda: page.texts(".status") == ["completed"])
        assert page.evaluate("window.kept")
        assert page.evaluate("document.querySelector('main').dataset.version") != version
        assert page.texts("section h2")[:4] == ["Prompt", "Answer", "System text", "Labels"]
        assert page.evaluate("document.querySelector('.panel :checked').value") == "negative"
        page.press(Keys.ENTER)
        page.wait_for(lambda: page.row() == "r5")
        assert ledger.row_list.lines("labelled", ["r4"])[0]["answered_by"] == "maria"
        page.check()


def test_a_refresh_of_a_row_keeps_an_answer_that_is_being_entered(ledger: Ledger, browser: Chrome) -> None:
    labelled_run(ledger, rows=6, open_rows=1)
    with served(ledger, "labelled") as address:
        page = Page(browser, address, 390)
        page.open("/row?id=r5&at=5")
        page.press("2", "n", "wait")
        answer(ledger, "labelled", "r5", "neutral", "neutral")
        page.wait_for(lambda: page.texts(".status") == ["completed"])
        assert page.evaluate("document.querySelector('.panel :checked').value") == "negative"
        assert page.evaluate("document.querySelector('[name=note]').value") == "wait"
        page.check()


def test_hostile_rows_are_texts(ledger: Ledger, browser: Chrome, width: int) -> None:
    hostile_run(ledger)
    with served(ledger, "hostile", by=HOSTILE) as address:
        page = Page(browser, address, width)
        ids = page.texts("[data-row]")
        assert ids == [row.replace("\0", "\ufffd") for row in HOSTILE_IDS]
        page.check()
        choice = quote(HOSTILE_CHOICE)
        page.open(f"/?q={quote(HOSTILE[:40])}&sort=value.{choice}&value.label={choice}")
        assert page.texts("[data-row]")[:8] == ids[:8]
        for row in ids:
            page.open(f"/row?id={quote(row, safe='')}&at={ids.index(row)}")
            assert page.row() == row
            assert page.evaluate("document.querySelectorAll('main script, main img, main b').length") == 0
            page.check()
        page.open(f"/row?id={quote(ids[0], safe='')}&at=0")
        page.press("2", Keys.ENTER)
        page.wait_for(lambda: page.row() == ids[1])
        found = ledger.row_list.lines("hostile", [HOSTILE_IDS[0]])[0]["structured"]
        assert (found["label"], found["score"]) == ("ok", 0.5)
        page.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_readable_on_light_and_dark_screens(ledger: Ledger, browser: Chrome, scheme: str) -> None:
    labelled_run(ledger, open_rows=1)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    with served(ledger, "labelled") as address:
        page = Page(browser, address, 1280)
        for path in ("/?cost=x", "/row?id=r1&at=1&done=r0", "/row?id=r3"):
            page.open(path)
            page.check()
            assert page.browser.execute_script(LOW_CONTRAST) == []
            unnamed = (
                "Array.from(document.querySelectorAll('input:not([type=hidden]), select, textarea'))"
                ".filter(one => !one.labels.length).map(one => one.name)"
            )
            assert page.evaluate(unnamed) == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_reading_needs_no_script(ledger: Ledger, browser: Chrome) -> None:
    labelled_run(ledger, rows=120)
    with served(ledger, "labelled") as address:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            browser.get(address)
            follow(browser, By.LINK_TEXT, "Next")
            follow(browser, By.LINK_TEXT, "r101")
            follow(browser, By.CSS_SELECTOR, "[data-confirm]")
            assert browser.find_element(By.TAG_NAME, "h1").text == "Row r102"
        finally:
            browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert ledger.row_list.lines("labelled", ["r101"])[0]["answered_by"] == "maria"


def test_an_export_opens_from_files(ledger: Ledger, browser: Chrome, tmp_path: Path, width: int) -> None:
    labelled_run(ledger, rows=250)
    assert export_rows(ledger, "labelled", tmp_path / "out") == 250
    page = Page(browser, (tmp_path / "out" / "index.html").as_uri(), width)
    page.host = (tmp_path / "out").as_uri()
    assert page.texts("[data-row]")[:2] == ["r0", "r1"]
    assert page.texts(".place")[0] == "1 to 100 of 250 rows"
    page.browser.find_element(By.LINK_TEXT, "Next").click()
    page.wait_for(lambda: page.texts(".place")[0] == "101 to 200 of 250 rows")
    page.browser.back()
    page.wait_for(lambda: page.texts("[data-row]")[0] == "r0")
    page.press("/")
    page.press("NUMBER 24", Keys.ENTER)
    page.wait_for(lambda: page.texts("[data-row]") == ["r24", *(f"r{i}" for i in range(240, 250))])
    page.browser.execute_script("location.hash = 'sort=-cost&value.response=neutral&status=completed'")
    page.wait_for(lambda: page.texts("[data-row]")[:2] == ["r2", "r5"])
    page.press("j", "j", Keys.ENTER)
    page.wait_for(lambda: page.row() == "r5")
    page.press("j")
    page.wait_for(lambda: page.row() == "r8")
    assert page.texts(".place")[-1].startswith("3 of ")
    story = page.texts("#story")[0]
    for text in (
        "Review number 8: works well",
        "I think: neutral",
        "Tool Call: lookup",
        "1,234",
        "Overloaded",
    ):
        assert text in page.evaluate("document.querySelector('#story').textContent")
    assert "Confirm" not in story
    page.press("l")
    page.wait_for(lambda: page.texts("[data-row]")[:1] == ["r2"])
    page.browser.execute_script("location.hash = 'status=failed'")
    page.wait_for(lambda: page.texts("[data-row]") == ["r3"])
    page.check()


def test_a_hostile_export_is_text(ledger: Ledger, browser: Chrome, tmp_path: Path) -> None:
    hostile_run(ledger)
    export_rows(ledger, "hostile", tmp_path / "out")
    page = Page(browser, (tmp_path / "out" / "index.html").as_uri(), 390)
    page.host = (tmp_path / "out").as_uri()
    ids = page.texts("[data-row]")
    assert ids == [row.replace("\0", "\ufffd") for row in HOSTILE_IDS]
    for at, row in enumerate(ids):
        page.browser.execute_script(f"location.hash = 'row={at}'")
        page.wait_for(lambda row=row: page.row() == row)
        assert page.evaluate("document.querySelectorAll('main script, main img, main b').length") == 0
    page.check()
