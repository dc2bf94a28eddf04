"""Commands that write pages, and checks of the pages that they write with ``--html``, in a real browser."""

# Selenium's commands have no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from chromium import open_page, requested
from forked_commands import loaded_command
from selenium.webdriver import Chrome

COMMAND = Path(sys.executable).with_name("opencode-tasks")
LIMIT_S = 120
# The labels of all visible charts that overlap another label of their chart or are not inside of it.
BAD_LABELS = """
return Array.from(document.querySelectorAll('.chart svg')).flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  if (!frame.width) return [];
  const labels = Array.from(svg.querySelectorAll('text')).map(text => [text, text.getBoundingClientRect()]);
  // A line box is higher and wider than its letters: versions of the browser differ by a part of a pixel.
  const overlap = (a, b) =>
    a.left + 1 < b.right && b.left + 1 < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom;
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
SHOWN_CHARTS = (
    "return Array.from(document.querySelectorAll('.chart svg'))"
    ".filter(svg => svg.getBoundingClientRect().width > 0)"
    ".map(svg => [svg.getBoundingClientRect().width, svg.viewBox.baseVal.width])"
)


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a folder."""
    command = [str(COMMAND), *arguments]
    with loaded_command.start(command, folder, os.environ) as started:
        streams: Any = (started.stdout, started.stderr)
        # The lines on stderr are few: they fit into their pipe meanwhile.
        stdout, stderr = (stream.buffer.read() for stream in streams)
        return subprocess.CompletedProcess(command, started.wait(LIMIT_S), stdout, stderr)


def open_checked(browser: Chrome, page: Path, width: int, *, charts: int) -> str:
    """Open a page from its file, check that it is complete, readable and loads nothing; return its text."""
    browser.get_log("browser")
    requested(browser)
    open_page(browser, page.as_uri(), width=width)
    assert browser.get_log("browser") == []
    assert [url for url in requested(browser) if not url.startswith("file:")] == []
    for name in ("scripts", "images"):
        assert browser.execute_script(f"return document.{name}.length") == 0
    # Only wide tables scroll, not the page.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    shown = browser.execute_script(SHOWN_CHARTS)
    assert len(shown) >= charts
    # A drawing for this width, so that its text is neither tiny nor huge.
    assert all(0.8 < drawn / natural < 1.4 for drawn, natural in shown)
    assert browser.execute_script(BAD_LABELS) == []
    return browser.execute_script("return document.body.textContent")


def check_charts(page: str) -> list[str]:
    """Check that the charts of a page are described and contain no code; return their texts."""
    charts = [ET.fromstring(found) for found in re.findall(r"<svg .*?</svg>", page, re.DOTALL)]
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
    return ["".join(chart.itertext()) for chart in charts]


def set_scheme(browser: Chrome, scheme: str | None) -> None:
    """Prefer a light or a dark page; None for the browser's own."""
    features = [] if scheme is None else [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
