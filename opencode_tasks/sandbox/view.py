"""View: what a program in a sandbox sees of the machine, whatever the kind of sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

# The folders for temporary files inside.
TEMP, OTHER_TEMP = "/tmp", "/var/tmp"  # noqa: S108


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The files that a program sees besides those of the system, at the same paths as outside.

    - ``temp``: folder that is /tmp and /var/tmp inside.
    - ``writable``, ``readable``: files and folders; the former are in the latter if both contain a path.
    - ``mounts``: files and folders that can be read, by their path inside.
    - ``has_network``: whether the program has the network of the machine; otherwise it has none.
    """

    temp: Path
    cwd: Path
    writable: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    mounts: Mapping[Path, Path] = field(default_factory=dict[Path, Path])
    has_network: bool = False


class Sandbox(Protocol):
    """A kind of sandbox. A container or a virtual machine would be others."""

    name: str

    def problem(self) -> str | None:
        """Why this machine cannot run programs in it; None if it can."""
        ...

    def command(self, args: list[str], view: View) -> list[str]:
        """The command that runs ``args`` in the sandbox, with the environment that it is given."""
        ...
