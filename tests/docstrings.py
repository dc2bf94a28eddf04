"""The public names of the Python reference, and the examples in their docstrings."""

from __future__ import annotations

import doctest
import importlib
import io
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PAGES = ("python-api.md", "python-errors.md", "python-testing.md")
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
SECTION = re.compile(r"^ *Examples:$", re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def names_on(page: str) -> list[str]:
    """The full names that a page of the reference shows, such as ``opencode_tasks.annotate``."""
    return DIRECTIVE.findall((REFERENCE / page).read_text(encoding="utf-8"))


def examples_of(name: str) -> list[doctest.DocTest]:
    """The examples of a public name and of its members, each with its own empty namespace."""
    module_name, _, own = name.rpartition(".")
    value = getattr(importlib.import_module(module_name), own)
    return found_in(value, name, importlib.import_module(value.__module__))


def found_in(value: object, name: str, module: ModuleType) -> list[doctest.DocTest]:
    """The examples in the docstrings of a value of this module, each in a section ``Examples:``."""
    found = doctest.DocTestFinder().find(value, name, module=module, globs={})
    return [one for one in found if one.examples and SECTION.search(one.docstring or "")]


def failures_of(examples: list[doctest.DocTest]) -> str:
    """Run examples in turn; doctest's report of those that fail, empty if none does."""
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    report = io.StringIO()
    for example in examples:
        runner.run(example, out=report.write)
    return report.getvalue()
