"""A headless Chromium for the scripts that make diagrams and pictures, and for tests of pages."""

# Selenium's commands have no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

MISSING = "chromium or chromedriver is missing: apt-get install chromium chromium-driver"


def is_installed() -> bool:
    """Whether the browser and its driver are on PATH."""
    return None not in (shutil.which("chromium"), shutil.which("chromedriver"))


@contextmanager
def chromium() -> Generator[Chrome]:
    """Start a Chromium with a new profile; end it on exit.

    Raises RuntimeError if the browser or its driver is missing.
    """
    if not is_installed():
        raise RuntimeError(MISSING)
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        for flag in (
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={profile}"),
        ):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield browser
        finally:
            browser.quit()


def open_page(browser: Chrome, address: str, *, width: int, height: int = 900, scale: float = 1) -> None:
    """Open a page in a window of this size; scale is the number of device pixels for each CSS pixel."""
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}  # noqa: PLR2004
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)


def requested(browser: Chrome) -> list[str]:
    """The addresses that pages requested since the last call.

    Content inside of an address (``data:``) and pages of the browser, such as its first one, are no requests.
    """
    lines: list[dict[str, Any]] = browser.get_log("performance")
    events = [json.loads(line["message"])["message"] for line in lines]
    addresses = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [address for address in addresses if not address.startswith(("data:", "chrome:"))]
