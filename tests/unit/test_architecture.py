"""The pages about the code name files, functions and tests that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "opencode_tasks"
PAGES = ROOT / "docs" / "explanation"
ARCHITECTURE = (PAGES / "architecture.md").read_text(encoding="utf-8")
PROMISES = (PAGES / "promises.md").read_text(encoding="utf-8")
INTERNALS = (PAGES / "prefect-and-ray-internals.md").read_text(encoding="utf-8")
CHANGES = re.sub(
    r"```.*?```", "", (PAGES / "where-to-change.md").read_text(encoding="utf-8"), flags=re.DOTALL
)
CODE = re.compile(r"`([\w./-]+\.(?:py|pyi|js))(?:: ([\w.]+))?(?:` or `(\w+))?`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def defines(path: Path, name: str) -> bool:
    """Whether a module defines a function, a class, or a method of a class."""
    source = path.read_text(encoding="utf-8")
    return all(
        re.search(rf"^\s*(?:async )?(?:def|class) {part}\b", source, re.MULTILINE) for part in name.split(".")
    )


@pytest.mark.parametrize("page", [ARCHITECTURE, INTERNALS, CHANGES], ids=["way", "internals", "changes"])
def test_every_file_and_function_exists(page: str) -> None:
    named = [(match[1], [name for name in match.groups()[1:] if name]) for match in CODE.finditer(page)]
    assert len(named) > 8
    for file, names in named:
        path = next((folder / file for folder in (PACKAGE, ROOT) if (folder / file).is_file()), None)
        assert path is not None, file
        assert [name for name in names if not defines(path, name)] == [], file


@pytest.mark.parametrize("page", [INTERNALS, PROMISES], ids=["internals", "promises"])
def test_every_fact_and_promise_has_a_test_that_exists(page: str) -> None:
    rows = [line for line in page.splitlines() if line.startswith("| ") and "| test |" not in line]
    assert len(rows) > 15
    for row in rows:
        [(file, name)] = TEST.findall(row)
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_the_table_of_packages_has_the_layers_of_the_import_contract() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    contract = [name for layer in layers for name in re.findall(r"\w+", layer)]
    table = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", ARCHITECTURE, re.MULTILINE)
    shown = [name for cell in table for name in re.findall(r"\w+", cell)]
    assert sorted(shown) == sorted(contract)
    order = {name: number for number, layer in enumerate(layers) for name in re.findall(r"\w+", layer)}
    # The local model is beside the ledger in the contract, and has a line of its own in the table.
    numbers = [order[name] for name in shown]
    assert numbers == sorted(numbers)
