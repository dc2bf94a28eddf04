"""Run a table of prompts through opencode as Prefect flows on Ray.

The public names and their modules are in ``__init__.pyi``, for type checkers and for this module.
Importing the package loads neither prefect, ray nor pandas: each name is loaded on first access.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from typing import Any


def _read_public_names() -> dict[str, str]:
    """Module of each public name, from the imports in the stub file."""
    stub = pkgutil.get_data(__name__, "__init__.pyi")
    assert stub is not None
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


_MODULES = _read_public_names()

# The names are in the stub.
__all__ = sorted(_MODULES)  # noqa: PLE0605  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
