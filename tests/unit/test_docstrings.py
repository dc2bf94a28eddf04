"""The Python reference shows every public name, with a docstring that fits its signature."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from itertools import chain

import griffe
import pytest
from docstrings import PAGES, ROOT, examples_of, failures_of, found_in, names_on

import opencode_tasks
from opencode_tasks import errors, testing


def test_the_reference_shows_every_public_name_once() -> None:
    shown = [name for page in PAGES for name in names_on(page)]
    exported = {f"opencode_tasks.{name}" for name in dir(opencode_tasks)}
    exported |= {f"opencode_tasks.testing.{name}" for name in testing.__all__}
    assert len(shown) == len(set(shown))
    assert exported <= set(shown)
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    raised = {value.__name__ for value in classes if issubclass(value, Exception)}
    assert raised == {name.rpartition(".")[2] for name in names_on("python-errors.md")}


def public_members(member: griffe.Object | griffe.Alias) -> Iterator[griffe.Object | griffe.Alias]:
    """A public object, then what a reader of the reference sees in it."""
    yield member
    if member.is_class:
        yield from (inner for name, inner in member.members.items() if not name.startswith("_"))


def test_docstrings_fit_their_signatures(caplog: pytest.LogCaptureFixture) -> None:
    """Google style, which the reference reads: a section names parameters that exist."""
    package = griffe.load("opencode_tasks", search_paths=[ROOT], docstring_parser="google")
    shown = [package[name.removeprefix("opencode_tasks.")] for page in PAGES for name in names_on(page)]
    with caplog.at_level(logging.WARNING, logger="griffe"):
        described = [
            member.path
            for member in chain.from_iterable(map(public_members, shown))
            if member.docstring is not None and member.docstring.parsed
        ]
    assert {member.path for member in shown} <= set(described)
    assert [record.getMessage() for record in caplog.records] == []


def test_every_public_name_has_an_example() -> None:
    """An alias of a type has none: doctest does not read the docstring of a variable."""
    names = [name for page in PAGES for name in names_on(page)]
    assert [name for name in names if not examples_of(name)] == ["opencode_tasks.testing.Wire"]


def doubled(number: int) -> int:
    """Twice a number.

    Examples:
        >>> from test_docstrings_sample import doubled
        >>> doubled(2)
        5
    """
    return 2 * number


def test_an_example_that_is_wrong_is_found() -> None:
    sys.modules["test_docstrings_sample"] = sys.modules[__name__]
    report = failures_of(found_in(doubled, "doubled", sys.modules[__name__]))
    assert "Expected:\n    5\nGot:\n    4" in report
