"""What the import contracts of pyproject.toml cannot say: what is loaded, and when."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import opencode_tasks

ROOT = Path(opencode_tasks.__file__).parents[1]
FRAMEWORKS = ("prefect", "prefect_ray", "ray", "pandas", "sqlalchemy", "httpx", "aiohttp")

PURE = (
    *(f"domain/{path.name}" for path in sorted((ROOT / "opencode_tasks" / "domain").glob("*.py"))),
    *(f"outcomes/{path.name}" for path in sorted((ROOT / "opencode_tasks" / "outcomes").glob("*.py"))),
    "errors.py",
    "telemetry.py",
)
EFFECTS = frozenset(
    ("asyncio", "random", "secrets", "shutil", "socket", "tempfile", "threading", "time", "uuid")
)
CLOCKS = frozenset(("now", "utcnow", "today"))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_reads_no_clock_and_has_no_effects(name: str) -> None:
    tree = ast.parse((ROOT / "opencode_tasks" / name).read_text(encoding="utf-8"))
    assert {module for module in imported_modules(tree) if module.partition(".")[0] in EFFECTS} == set()
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert CLOCKS.isdisjoint(func.attr for func in calls if isinstance(func, ast.Attribute))


def loaded(code: str) -> list[str]:
    """The frameworks that are loaded after ``code`` has run in a new process."""
    report = f"import sys\nprint('loaded:', *[name for name in {FRAMEWORKS} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.rpartition("loaded:")[2].split()


def test_importing_the_package_loads_no_framework() -> None:
    assert loaded("import opencode_tasks") == []


def test_annotate_loads_neither_prefect_nor_ray() -> None:
    assert not {"prefect", "ray"} & set(loaded("from opencode_tasks import annotate"))


HELP = """
import sys
from opencode_tasks.cli.app import main
sys.argv[1:] = {arguments}
try:
    main()
except SystemExit as end:
    assert not end.code
"""


@pytest.mark.parametrize("arguments", [["--help"], ["annotate", "--help"], ["report", "--help"]])
def test_help_loads_no_framework(arguments: list[str]) -> None:
    assert not {"prefect", "ray", "pandas"} & set(loaded(HELP.format(arguments=arguments)))


def test_every_public_name_can_be_loaded() -> None:
    assert "annotate" in dir(opencode_tasks)
    for name in dir(opencode_tasks):
        assert getattr(opencode_tasks, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(opencode_tasks, "noth" + "ing")
