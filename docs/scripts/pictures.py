"""Make the pictures of the documentation from real runs: ``python docs/scripts/pictures.py [NAME …]``.

``run-in-terminal`` is the screen after ``opencode-tasks annotate``, ``awaiting-retry`` a flow run in
Prefect's UI that sleeps until a rate limit ends, ``cost-page`` the page of ``opencode-tasks report``.
A scripted provider on this machine answers, so nothing is paid. Needs Chromium and about two minutes.
"""

# Selenium's commands have no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from chromium import chromium, open_page
from prefect_run import sleeping_run
from rich.text import Text
from scene import MODEL, PROVIDER, REVIEWS, ROOT, scene
from selenium.webdriver import Chrome
from selenium.webdriver.support.wait import WebDriverWait
from terminal import draw, record, screen_lines

ASSETS = ROOT / "docs" / "assets"
WIDTH = 1080
# Shown in place of the temporary folder of a scene.
SHOWN_FOLDER = "/home/team"
MAX_BYTES = 150_000
PAGE_LIMIT_S = 60
# Model calls in the ledger of the cost page: two months of several models and deployments.
MODEL_CALLS = 100_000
TEMPLATE = "Is this review positive or negative? {text}"
COMMAND = ("annotate", REVIEWS.name, "-o", "labelled.csv", "--id-column", "id", "--template", TEMPLATE)
OPTIONS = ("--model", f"{PROVIDER}/{MODEL}")
TYPED = (
    f"$ opencode-tasks annotate {REVIEWS.name} -o labelled.csv --id-column id \\",
    f'    --template "{TEMPLATE}" --model {PROVIDER}/{MODEL}',
)

RENAME = """
const [folder, shown] = arguments;
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(folder, shown);
"""


def run_in_terminal(path: Path) -> None:
    """The terminal after a run of 30 rows."""
    with scene() as here:
        command = here.command("opencode-tasks", *COMMAND, *OPTIONS, "--runner", "threads")
        output = record(command, cwd=here.folder, env=here.env)
    typed = [Text(line, style="bold") for line in TYPED]
    path.write_text(draw([*typed, *screen_lines(output)], title="opencode-tasks annotate"), encoding="utf-8")


def awaiting_retry(path: Path) -> None:
    """The page of a flow run that sleeps, in Prefect's UI."""
    with sleeping_run() as (address, folder), chromium() as browser:
        open_page(browser, address, width=WIDTH, height=920)
        wait_for_words(browser, "AwaitingRetry", "Finished in state AwaitingRetry")
        rename_folder(browser, folder)
        save_screenshot(browser, path)


def cost_page(path: Path) -> None:
    """The top of the report page, over a ledger of generated model calls."""
    with scene() as here, chromium() as browser:
        fill = [sys.executable, str(ROOT / "benchmarks" / "reports.py"), str(MODEL_CALLS), "ledger.db"]
        subprocess.run(fill, cwd=here.folder, env=here.env, check=True, stdout=subprocess.DEVNULL)
        here.run("opencode-tasks", "report", "--ledger", "ledger.db", "--html", "page.html")
        open_page(browser, (here.folder / "page.html").as_uri(), width=WIDTH, height=900)
        rename_folder(browser, here.folder)
        save_screenshot(browser, path)


def rename_folder(browser: Chrome, folder: Path) -> None:
    """Replace the name of a temporary folder in all texts of the page."""
    browser.execute_script(RENAME, str(folder), SHOWN_FOLDER)


def wait_for_words(browser: Chrome, *words: str) -> None:
    """Wait until a page shows all words."""

    def is_shown(_: Chrome) -> bool:
        text: str = browser.execute_script("return document.body.innerText")
        return all(word in text for word in words)

    WebDriverWait(browser, PAGE_LIMIT_S).until(is_shown)


def save_screenshot(browser: Chrome, path: Path) -> None:
    """Write what the window shows as PNG; raises RuntimeError if that is too large for a page."""
    picture = browser.get_screenshot_as_png()
    if len(picture) > MAX_BYTES:
        raise RuntimeError(
            f"{path.name} has {len(picture):,} bytes, more than {MAX_BYTES:,}: show less of the page"
        )
    path.write_bytes(picture)


PICTURES: dict[str, Callable[[Path], None]] = {
    "run-in-terminal.svg": run_in_terminal,
    "awaiting-retry.png": awaiting_retry,
    "cost-page.png": cost_page,
}


def main() -> None:
    """Make the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [name.partition(".")[0] for name in PICTURES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names)}; default: all")
    parser.add_argument("--to", type=Path, metavar="FOLDER", default=ASSETS, help="default: docs/assets")
    given = parser.parse_args()
    wanted: list[str] = given.names
    folder: Path = given.to
    if unknown := set(wanted) - set(names):
        parser.error(f"no such picture: {', '.join(sorted(unknown))}")
    folder.mkdir(exist_ok=True)
    for name, make in PICTURES.items():
        if not wanted or name.partition(".")[0] in wanted:
            make(folder / name)
            print(f"{folder / name}: {(folder / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
