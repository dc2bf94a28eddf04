"""Prefect's functions that return a coroutine in an async flow are called through one function alone."""

from __future__ import annotations

import ast
import asyncio
import importlib
import pkgutil
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import pytest

import opencode_tasks.orchestration
from opencode_tasks.orchestration.blocking_calls import call_blocking

PLACE = ContextVar("PLACE", default="elsewhere")


async def place(*, fails: bool = False) -> str:
    await asyncio.sleep(0)
    if fails:
        raise ValueError("no block")
    return PLACE.get()


def test_a_call_blocks_in_a_running_loop_and_sees_the_context_of_the_caller() -> None:
    async def call() -> str:
        PLACE.set("in the flow")
        return call_blocking(place)

    assert asyncio.run(call()) == "in the flow"
    assert call_blocking(place) == "elsewhere"
    with pytest.raises(ValueError, match="no block"):
        call_blocking(place, fails=True)


def test_no_other_call_can_return_a_coroutine() -> None:
    package = opencode_tasks.orchestration
    names = [f"{package.__name__}.{one.name}" for one in pkgutil.iter_modules(package.__path__)]
    assert len(names) > 15
    for module in map(importlib.import_module, names):
        # Prefect marks each function that exists twice by an attribute with the other one.
        assert [name for name, value in vars(module).items() if hasattr(value, "aio")] == [], module
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        assert not {"load", "save", "_sync"} & set(called_names(ast.parse(source))), module


def called_names(tree: ast.AST) -> Iterator[str]:
    """Names of the methods that are called, and of keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.func.attr
            yield from (keyword.arg for keyword in node.keywords if keyword.arg)
