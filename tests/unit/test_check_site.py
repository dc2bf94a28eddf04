"""The check of the built documentation site, on a small site with one fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_site import site_faults

PAGES = {
    "index.html": '<a href="./guide/#start">x</a><img src="a.svg"><a href="https://example.com">x</a>',
    "guide/index.html": '<h2 id="start">x</h2><a href="..">x</a><a href="#start">x</a>',
    "404.html": '<a href="/guide/">x</a>',
    "a.svg": '<svg xmlns="http://www.w3.org/2000/svg"><a href="#b"/></svg>',
    "main.css": "a { background: url('a.svg') } @import 'other.css'",
}


def site_of(folder: Path, page: str = "index.html", fault: str = "") -> Path:
    for name, text in PAGES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + fault * (name == page))
    return folder


def test_a_site_without_a_fault(tmp_path: Path) -> None:
    assert site_faults(site_of(tmp_path)) == []


@pytest.mark.parametrize(
    ("page", "fault", "words"),
    [
        ("index.html", '<a href="gone/">x</a>', "gone/ leads to no file of the site"),
        ("index.html", '<a href="../outside">x</a>', "../outside leads to no file of the site"),
        ("index.html", '<a href="guide/#gone">x</a>', "guide/#gone leads to no anchor of guide/index.html"),
        ("guide/index.html", '<a href="#gone">x</a>', "#gone leads to no anchor of guide/index.html"),
        ("index.html", '<a href="/guide/">x</a>', "/guide/ starts at the root"),
        ("404.html", '<a href="/gone/">x</a>', "/gone/ leads to no file of the site"),
        ("index.html", '<img src="gone.png">', "gone.png leads to no file of the site"),
        ("index.html", '<img srcset="a.svg 1x, gone.png 2x">', "gone.png leads to no file of the site"),
        ("index.html", '<img src="https://example.com/a.png">', "loads https://example.com/a.png"),
        ("index.html", '<script src="//example.com/a.js"></script>', "loads //example.com/a.js"),
        ("index.html", '<link rel="stylesheet" href="https://example.com/a.css">', "loads https://example"),
        ("index.html", '<p style="background: url(https://example.com/a)">', "loads https://example.com/a"),
        ("index.html", "<style>@import 'https://example.com/a';</style>", "loads https://example.com/a"),
        ("index.html", '<pre class="mermaid">x</pre>', "a mermaid block needs a network"),
        (
            "main.css",
            "@font-face { src: url(https://example.com/a.woff) }",
            "loads https://example.com/a.woff",
        ),
        ("a.svg", '<image href="https://example.com/a.png"/>', "loads https://example.com/a.png"),
        ("a.svg", "<style>@import url('https://example.com/a')</style>", "loads https://example.com/a"),
    ],
)
def test_a_fault_is_one_line_with_its_file(tmp_path: Path, page: str, fault: str, words: str) -> None:
    [line] = site_faults(site_of(tmp_path, page, fault))
    assert line.startswith(f"{page}: {words}")
