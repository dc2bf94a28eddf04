"""Check the built documentation site: ``python docs/scripts/check_site.py site``.

Every link leads to a file and an anchor of the site, and no page loads anything from another host.
The site's generator compares Markdown pages; this check reads what a browser reads.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that a browser loads without a click, and relations of a <link> for which href is one of them.
LOADED = {"src", "srcset", "poster", "data"}
LOADED_RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "manifest"}
CSS_ADDRESS = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
SVG_ADDRESS = re.compile(r"(?:href|src)\s*=\s*['\"]([^'\"]+)")
# Drawn in the browser by a library that the theme's script loads from another host.
DRAWN_BY_SCRIPT = "mermaid"
# Served in place of any missing page, so its links start at the root.
NOT_FOUND_PAGE = "404.html"


@dataclass(slots=True)
class Page:
    """The anchors of an HTML page, the links that a reader follows, the addresses that the page loads."""

    anchors: set[str] = field(default_factory=set[str])
    links: list[str] = field(default_factory=list[str])
    loads: list[str] = field(default_factory=list[str])
    is_drawn_by_script: bool = False


class PageParser(HTMLParser):
    """Fills a page from its HTML."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a start tag names."""
        named = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        self.page.anchors |= {named[name] for name in ("id", "name") if name in named}
        self.page.is_drawn_by_script |= DRAWN_BY_SCRIPT in named.get("class", "").split()
        if "href" in named:
            is_loaded = tag == "link" and LOADED_RELATIONS & set(named.get("rel", "").split())
            (self.page.loads if is_loaded else self.page.links).append(named["href"])
        for name in LOADED & named.keys():
            candidates = named[name].split(",") if name == "srcset" else [named[name]]
            self.page.loads += [candidate.split()[0] for candidate in candidates if candidate.strip()]
        self.page.loads += addresses(CSS_ADDRESS, named.get("style", ""))

    def handle_data(self, data: str) -> None:
        """Collect what a style sheet inside the page loads."""
        if self.in_style:
            self.page.loads += addresses(CSS_ADDRESS, data)


def read_page(path: Path) -> Page:
    """Parse an HTML file."""
    page = Page()
    PageParser(page).feed(path.read_text(encoding="utf-8"))
    return page


def addresses(pattern: re.Pattern[str], text: str) -> list[str]:
    """The addresses that a text names."""
    return [match[match.lastindex or 0] for match in pattern.finditer(text)]


def is_external(address: str) -> bool:
    """Whether an address leads to another host."""
    return bool(urlsplit(address).netloc)


def broken(link: str, path: Path, site: Path, pages: dict[Path, Page]) -> str | None:
    """Why a link of a page leads nowhere; None if it leads somewhere, or to another host."""
    parts = urlsplit(link)
    if parts.netloc or parts.scheme:
        return None
    folder = path.parent
    if parts.path.startswith("/"):
        if path.name != NOT_FOUND_PAGE:
            return f"{link} starts at the root, so it breaks if the site is served from a subfolder"
        folder = site
    target = (folder / unquote(parts.path.lstrip("/"))).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file() or not target.is_relative_to(site):
        return f"{link} leads to no file of the site"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return f"{link} leads to no anchor of {target.relative_to(site)}"
    return None


def page_faults(path: Path, site: Path, pages: dict[Path, Page]) -> list[str]:
    """The faults of one page."""
    page = pages[path]
    found = [broken(link, path, site, pages) for link in dict.fromkeys([*page.links, *page.loads])]
    found += [f"loads {address} from another host" for address in page.loads if is_external(address)]
    if page.is_drawn_by_script:
        found.append(
            "a mermaid block needs a network to be shown: make it a picture (docs/scripts/diagrams.py)"
        )
    return [fault for fault in found if fault]


def file_faults(path: Path) -> list[str]:
    """The faults of one style sheet or SVG picture."""
    text = path.read_text(encoding="utf-8")
    loads = addresses(CSS_ADDRESS, text) + (addresses(SVG_ADDRESS, text) if path.suffix == ".svg" else [])
    return [f"loads {address} from another host" for address in loads if is_external(address)]


def site_faults(site: Path) -> list[str]:
    """Each fault of a built site in one line that starts with its file."""
    pages = {path: read_page(path) for path in sorted(site.rglob("*.html"))}
    faults = {path: page_faults(path, site, pages) for path in pages}
    faults |= {path: file_faults(path) for path in sorted([*site.rglob("*.css"), *site.rglob("*.svg")])}
    return [f"{path.relative_to(site)}: {fault}" for path, found in faults.items() for fault in found]


def main() -> int:
    """Print each fault of the site that is the only argument; the exit code."""
    site = Path(sys.argv[1]).resolve()
    if not (site / "index.html").is_file():
        print(f"{site} holds no built site: run make docs")
        return 2
    faults = site_faults(site)
    print("\n".join(faults) or f"{site.name}: every link leads to a page, nothing loads from another host")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
