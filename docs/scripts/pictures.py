"""Make the pictures of the documentation from real runs: ``python docs/scripts/pictures.py [NAME …]``.

``run-in-terminal`` is the screen after ``opencode-tasks annotate``, ``awaiting-retry`` a flow run in
Prefect's UI that sleeps until a rate limit ends, ``cost-page`` the page of ``opencode-tasks report``,
``choice-page`` the picture in the page of ``opencode-tasks choose``.
A scripted provider on this machine answers, so nothing is paid. Needs Chromium and some minutes.
"""

# Selenium's commands have no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from chromium import chromium, open_page
from prefect_run import sleeping_run
from rich.text import Text
from scene import MODEL, PRICED, PROVIDER, REVIEWS, ROOT, scene
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from terminal import draw, record, screen_lines

from opencode_tasks.testing import Call, Reply

ASSETS = ROOT / "docs" / "assets"
WIDTH = 1080
# Shown in place of the temporary folder of a scene.
SHOWN_FOLDER = "/home/team"
MAX_BYTES = 150_000
PAGE_LIMIT_S = 60
# Model calls in the ledger of the cost page: two months of several models and deployments.
MODEL_CALLS = 100_000
# Price of a million input tokens in USD, and of how many rows in a hundred the label is right.
CANDIDATES = {
    "claude-haiku-4-5": (1.0, 95),
    "claude-sonnet-4-5": (3.0, 97),
    "claude-3-haiku": (0.25, 88),
    "claude-nano": (0.05, 55),
}
CHOICE_ROWS = 200
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


def choice_page(path: Path) -> None:
    """The chart of the page of a choice among four models that are right in a known share of the rows."""
    with scene(list(choice_rules())) as here, chromium() as browser:
        for name, (price, _) in CANDIDATES.items():
            cost = {"cost": {"input": price, "output": 5 * price}}
            here.provider.models[name] = {"name": name, **PRICED, **cost}
        here.configure()
        lines = [f"{number},review {number},positive" for number in range(CHOICE_ROWS)]
        (here.folder / "labelled.csv").write_text("\n".join(["id,text,human", *lines]) + "\n")
        models = [word for name in CANDIDATES for word in ("--model", f"{PROVIDER}/{name}")]
        fixed = (
            "--gold",
            "human",
            "--choices",
            "positive,negative",
            "--target",
            "0.9",
            "--html",
            "page.html",
        )
        here.run("opencode-tasks", "choose", "labelled.csv", "--template", "Label {text}.", *fixed, *models)
        open_page(browser, (here.folder / "page.html").as_uri(), width=WIDTH, height=1800)
        path.write_bytes(browser.find_element(By.CSS_SELECTOR, "section:has(svg)").screenshot_as_png)


def choice_rules() -> Iterator[tuple[Callable[[Call], bool], Reply]]:
    """For each candidate, the rows to which it gives the wrong and the right label."""
    for name, (_, right) in CANDIDATES.items():

        def is_wrong(call: Call, name: str = name, right: int = right) -> bool:
            number = int(call.prompt.rpartition(" ")[2].rstrip("."))
            return call.model == name and number % 100 * 37 % 100 >= right

        def is_right(call: Call, name: str = name) -> bool:
            return call.model == name

        yield is_wrong, Reply(text="negative", input_tokens=180, output_tokens=6)
        yield is_right, Reply(text="positive", input_tokens=180, output_tokens=6)


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
    "choice-page.png": choice_page,
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
