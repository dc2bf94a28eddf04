"""The optional dependencies of the package: what to install for each extra. Pure."""

from __future__ import annotations

from collections.abc import Mapping

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "excel": ("openpyxl",),
    "local": ("xllamacpp",),
    "postgres": ("'psycopg[binary]'",),
    "quality": ("scikit-learn", "scipy", "krippendorff"),
}
"""Packages of each extra, as arguments in a shell."""


def install_hint(extra: str) -> str:
    """A command that installs the packages of an extra, wherever opencode-tasks was installed from.

    The name of the package with the extra would be looked up in a package index.
    """
    return f"pip install {' '.join(PACKAGES[extra])} (the extra {extra!r} of opencode-tasks)"
