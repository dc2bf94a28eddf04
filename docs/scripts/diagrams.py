"""Draw each diagram ``docs/**/NAME.mmd`` as ``NAME.svg`` beside it: ``python docs/scripts/diagrams.py``.

The pictures are committed, so a page needs no script and no network to show one, and building the
site needs neither Chromium nor npm. ``--check`` reports pictures that do not fit their source.
A source that has not changed is not drawn again, unless the version or the settings below change.
"""

# Selenium's commands have no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chromium import chromium

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

DOCS = Path(__file__).parents[1]
MERMAID = "mermaid@12.3.0"
MERMAID_SHA512 = (
    "e35d774dd5de2c0b0caee27bf4ea452f93bcf8b4c55e142a676eb4ac5ded8149"
    "a2340b519b852e99ed3823eeb93d137ac99ebd2787fcad56165bccd193ae5463"
)
MERMAID_SCRIPT = "package/dist/mermaid.min.js"
DOWNLOAD_LIMIT_S = 300
DRAWING_LIMIT_S = 30
# Labels as SVG text: programs other than browsers do not show HTML labels. Flowcharts place them best.
SETTINGS: dict[str, Any] = {
    "deterministicIds": True,
    "flowchart": {"diagramPadding": 16, "rankSpacing": 30, "useMaxWidth": False, "wrappingWidth": 420},
    "fontFamily": "sans-serif",
    "htmlLabels": False,
    "look": "classic",
    "securityLevel": "strict",
    "startOnLoad": False,
    "theme": "neutral",
    # Otherwise a line shows through the label that is on it.
    "themeCSS": ".edgeLabel rect, .edgeLabel .label rect { fill: white; opacity: 1; }",
}
# Readable on a dark page also.
BACKGROUND = '<svg style="background: white"'
DRAW = """
const [settings, source, done] = arguments;
mermaid.initialize(settings);
mermaid.render("diagram", source).then(({svg}) => done({svg}), error => done({error: String(error)}));
"""
MARK = re.compile(r"<!-- docs/scripts/diagrams\.py ([0-9a-f]{64}) -->\n")


def fingerprint(source: str) -> str:
    """Hash of all that decides a picture: its source, the version of mermaid, the settings."""
    parts = json.dumps([source, MERMAID, SETTINGS, BACKGROUND], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


def is_current(source: Path) -> bool:
    """Whether the picture beside a source was drawn from it."""
    picture = source.with_suffix(".svg")
    found = MARK.match(picture.read_text(encoding="utf-8")) if picture.exists() else None
    return found is not None and found[1] == fingerprint(source.read_text(encoding="utf-8"))


def fetch_mermaid(folder: Path) -> Path:
    """Download the pinned mermaid from the npm registry; the path of its script."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), MERMAID]
    subprocess.run(command, cwd=folder, check=True, timeout=DOWNLOAD_LIMIT_S, stdout=subprocess.DEVNULL)
    [package] = folder.glob("*.tgz")
    digest = hashlib.sha512(package.read_bytes()).hexdigest()
    if digest != MERMAID_SHA512:
        sys.exit(f"the npm registry gave another {MERMAID} than the one pinned here: sha512 {digest}")
    with tarfile.open(package) as archive:
        archive.extract(MERMAID_SCRIPT, folder, filter="data")
    return folder / MERMAID_SCRIPT


def draw(browser: Chrome, source: Path) -> str:
    """The picture of a source, as SVG with its mark."""
    text = source.read_text(encoding="utf-8")
    drawn: dict[str, str] = browser.execute_async_script(DRAW, SETTINGS, text)
    if "error" in drawn:
        sys.exit(f"{source.relative_to(DOCS)}: {drawn['error']}")
    svg = drawn["svg"].replace("<svg", BACKGROUND, 1)
    return f"<!-- docs/scripts/diagrams.py {fingerprint(text)} -->\n{svg}\n"


def draw_all(sources: list[Path]) -> None:
    """Draw pictures and write each beside its source."""
    with tempfile.TemporaryDirectory(prefix="mermaid-") as folder, chromium() as browser:
        page = Path(folder) / "page.html"
        script = fetch_mermaid(Path(folder)).as_uri()
        page.write_text(f'<!doctype html><meta charset="utf-8"><script src="{script}"></script>')
        browser.set_script_timeout(DRAWING_LIMIT_S)
        browser.get(page.as_uri())
        for source in sources:
            source.with_suffix(".svg").write_text(draw(browser, source), encoding="utf-8")


def main() -> int:
    """Draw what is out of date, or with ``--check`` report it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only report pictures that are out of date")
    check = parser.parse_args().check
    stale = [source for source in sorted(DOCS.rglob("*.mmd")) if not is_current(source)]
    if stale and not check:
        draw_all(stale)
    for source in stale:
        name = source.relative_to(DOCS).with_suffix(".svg")
        print(f"{name}: {'out of date: run python docs/scripts/diagrams.py' if check else 'drawn'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
