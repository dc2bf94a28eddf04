"""Design section 8: an import goes down, never up or round, and each framework has its place.

The imports are read from the source of every module, those inside functions and under
TYPE_CHECKING included.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import opencode_tasks

ROOT = Path(opencode_tasks.__file__).parents[1]
PACKAGE = "opencode_tasks"

PURE = (
    "domain",
    "errors",
    "telemetry",
    "outcomes.retry_after",
    "outcomes.run_output",
    "outcomes.messages",
    "outcomes.events",
    "outcomes.classify",
    "outcomes.outcome",
    "outcomes.session_result",
)
# From the lowest floor up: a module imports its own floor and those below.
FLOORS: tuple[tuple[str, ...], ...] = (
    PURE,
    ("settings", "system"),
    ("opencode", "outcomes.trace"),
    ("local_model",),
    ("ledger",),
    ("frames",),
    ("llm", "plan", "engine", "orchestration", "reports"),
    ("cli",),
)
# A house beside the others: users' tests stand on it, and it stands on nothing of ours.
APART = "testing"

# What may be imported where; "flows" are the deployable entry points.
PLACES: dict[str, tuple[str, ...]] = {
    "prefect": ("orchestration", "engine", "plan", "cli", "flows"),
    "ray": ("orchestration", "flows"),
    "prefect_ray": ("orchestration", "flows"),
    "pandas": ("frames", "reports", "plan", "engine", "orchestration", "flows"),
    "pyarrow": ("frames",),
    "fsspec": ("frames",),
    "subprocess": ("system",),
    "signal": ("system",),
    "multiprocessing": ("system",),
    "sqlalchemy": ("ledger", "frames.sql"),
    "alembic": ("ledger",),
    "jinja2": ("reports",),
    "genai_prices": ("domain.price_book",),
    "opentelemetry": ("telemetry",),
    "httpx": (
        "local_model",
        "orchestration",
        "cli.checks",
    ),
    "aiohttp": ("opencode.client",),
    "typer": ("cli",),
    "click": ("cli",),
    "rich": ("cli",),
    "uvicorn": ("testing",),
    "starlette": ("testing",),
}
# A pure module is handed the time, and waits for nothing.
WORLDLY = ("time", "asyncio", "threading", "socket", "random", "secrets", "uuid", "tempfile", "shutil")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(folder: str) -> dict[str, Path]:
    return {module_of(path): path for path in sorted((ROOT / folder).rglob("*.py"))}


OURS = sources(PACKAGE)
ALL = {**OURS, **sources("flows")}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in ALL.items()}


def imports(name: str) -> Iterator[str]:
    """The modules that a module imports, in full; a name that is no module counts as its home."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            home = node.module or ""
            for alias in node.names:
                yield f"{home}.{alias.name}" if f"{home}.{alias.name}" in OURS else home


def our_imports(name: str) -> set[str]:
    return {found for found in imports(name) if found.partition(".")[0] == PACKAGE}


def lies_in(name: str, place: str) -> bool:
    inner = name.removeprefix(f"{PACKAGE}.")
    return inner == place or inner.startswith(f"{place}.")


def floor_of(name: str) -> int:
    found = [number for number, places in enumerate(FLOORS) if any(lies_in(name, place) for place in places)]
    assert len(found) == 1, f"{name} stands on no floor: add it to FLOORS"
    return found[0]


INNER = [name for name in OURS if name != PACKAGE and not lies_in(name, APART)]


def test_the_reader_sees_imports_of_every_kind() -> None:
    assert "opencode_tasks.errors" in our_imports(PACKAGE)  # under TYPE_CHECKING
    assert "ray" in set(imports("opencode_tasks.orchestration.runners"))  # in a function
    assert "opencode_tasks.ledger.gates" in our_imports("opencode_tasks.ledger.claim")  # a module


@pytest.mark.parametrize("name", INNER)
def test_imports_go_down(name: str) -> None:
    up = {found for found in our_imports(name) if floor_of(found) > floor_of(name)}
    assert up == set()


def test_no_import_goes_round() -> None:
    graph = {name: our_imports(name) - {name} for name in OURS if name != PACKAGE}
    assert list(TopologicalSorter(graph).static_order())


def test_nothing_within_imports_the_face() -> None:
    assert [name for name in OURS if PACKAGE in our_imports(name)] == []


def test_testing_stands_apart() -> None:
    within = {found for name in OURS if lies_in(name, APART) for found in our_imports(name)}
    assert {found for found in within if not lies_in(found, APART)} == set()
    assert [name for name in INNER if any(lies_in(found, APART) for found in our_imports(name))] == []


@pytest.mark.parametrize(("library", "places"), PLACES.items(), ids=PLACES)
def test_a_library_is_imported_in_its_places(library: str, places: tuple[str, ...]) -> None:
    importers = {name for name in ALL if any(found.partition(".")[0] == library for found in imports(name))}
    assert {name for name in importers if not any(lies_in(name, place) for place in places)} == set()


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_knows_no_clock_and_no_world(name: str) -> None:
    full = f"{PACKAGE}.{name}"
    assert {found for found in imports(full) if found.partition(".")[0] in WORLDLY} == set()
    calls = [node.func for node in ast.walk(TREES[full]) if isinstance(node, ast.Call)]
    names = {func.attr for func in calls if isinstance(func, ast.Attribute)}
    assert names.isdisjoint({"now", "utcnow", "today"})


@pytest.mark.parametrize("name", ALL)
def test_a_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(TREES[name])


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_the_package_loads_no_framework() -> None:
    heavy = "{'prefect', 'ray', 'prefect_ray', 'pandas', 'sqlalchemy', 'httpx', 'aiohttp'}"
    assert run_python(f"import sys, opencode_tasks; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_every_public_name_is_there() -> None:
    code = "import opencode_tasks as o; print(*[n for n in o.__all__ if getattr(o, n).__name__ != n])"
    assert run_python(code) == ""


def test_the_face_lists_all_that_it_can_load() -> None:
    assert sorted(opencode_tasks._HOME_OF) == opencode_tasks.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(opencode_tasks, "noth" + "ing")


def test_the_floors_name_only_what_is_there() -> None:
    named = [place for places in FLOORS for place in places]
    assert [place for place in named if f"{PACKAGE}.{place}" not in OURS] == []
