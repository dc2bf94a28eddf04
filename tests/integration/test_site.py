"""The documentation site, built as ``make docs`` builds it and read in a real browser."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from check_site import site_faults
from chromium import open_page, requested
from docstrings import PAGES, names_on
from pictures import PICTURES
from selenium.webdriver import Chrome

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ZENSICAL = Path(sys.executable).with_name("zensical")
LIMIT_S = 120
IS_DRAWN = """
const done = arguments[arguments.length - 1];
Promise.all([...document.images].map(image => image.decode().then(() => true, () => image.src)))
    .then(found => done(found.filter(one => one !== true)));
"""


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a copy of the repository."""
    command = [str(ZENSICAL), "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def copied(folder: Path) -> Path:
    """Copy the sources of the site to a folder."""
    for name in ("docs", "opencode_tasks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", folder)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = copied(tmp_path_factory.mktemp("site"))
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
        del format, args


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.nightly
def test_every_link_leads_to_a_page_and_nothing_loads_from_another_host(site: Path) -> None:
    assert site_faults(site) == []


def test_the_reference_shows_each_name_with_an_anchor(site: Path) -> None:
    for page in PAGES:
        html = (site / "reference" / page.removesuffix(".md") / "index.html").read_text(encoding="utf-8")
        assert [name for name in names_on(page) if f'id="{name}"' not in html] == []


def test_sources_of_scripts_and_diagrams_are_not_published(site: Path) -> None:
    assert [path for path in site.rglob("*") if path.suffix in {".py", ".mmd", ".md"}] == []


@pytest.mark.parametrize(
    "fault",
    [
        # One that the build finds, and one that the check finds.
        "[x](nowhere.md)",
        '<img src="nowhere.svg">',
        *(
            pytest.param(fault, marks=pytest.mark.nightly)
            for fault in (
                "[x](reference/columns.md#nowhere)",
                "[`x`][opencode_tasks.nowhere]",
                "::: opencode_tasks.nowhere",
                "![x](nowhere.svg)",
                '<img src="https://example.com/a.svg">',
                "[x](/reference/columns/)",
                "[x](reference/nowhere/)",
            )
        ),
    ],
)
def test_a_fault_in_a_page_stops_the_build_or_the_check(tmp_path: Path, fault: str) -> None:
    folder = copied(tmp_path)
    with (folder / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{fault}\n")
    if build(folder).returncode == 0:
        assert len(site_faults(folder / "site")) == 1


@pytest.mark.nightly
def test_a_browser_draws_every_picture_and_stays_on_the_host(
    site: Path, address: str, browser: Chrome
) -> None:
    wrong: dict[str, Any] = {}
    for page in sorted(site.rglob("*.html")):
        requested(browser)
        browser.get_log("browser")
        open_page(browser, address + str(page.relative_to(site)), width=1280)
        not_drawn: list[str] = browser.execute_async_script(IS_DRAWN)
        elsewhere = [url for url in requested(browser) if not url.startswith(address)]
        if found := [*not_drawn, *elsewhere, *browser.get_log("browser")]:
            wrong[str(page.relative_to(site))] = found
    assert wrong == {}


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_pictures_can_be_made_again(tmp_path: Path, opencode_binary: Path) -> None:
    assert opencode_binary.is_file()
    command = [sys.executable, "docs/scripts/pictures.py", "--to", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == set(PICTURES)
    screen = (tmp_path / "run-in-terminal.svg").read_text(encoding="utf-8").replace("&#160;", " ")
    assert "30 completed -&gt; labelled.csv" in screen
