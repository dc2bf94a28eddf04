"""Which opencode runs: where its native binary is, and whether its version is one we know.

The range was measured on both of its ends: plugin, HTTP routes and error shapes are alike from
1.15.13 to 1.18.33. Opencode 2.x has other commands and routes and is refused.

npm's ``opencode`` is a script of node that starts the platform's binary, or, where the package was
installed without its scripts, a stub that only complains. The platform's package lies beside it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import platformdirs

from opencode_tasks.errors import SetupError
from opencode_tasks.system import run_command

MIN_VERSION = "1.15.13"
MAX_VERSION_EXCLUSIVE = "1.19.0"
PINNED_VERSION = "1.18.33"

BINARY_VARIABLE = "OPENCODE_TASKS_OPENCODE_BIN"
SETUP_HINT = "Run `opencode-tasks setup` to install opencode for yourself."

ELF_MAGIC = b"\x7fELF"
VERSION_LIMIT_S = 60.0
ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def cache_dir() -> Path:
    """The folder of what setup downloads, in the user's cache; it need not exist."""
    return platformdirs.user_cache_path("opencode-tasks")


def package_names(machine: str, libc: str, *, has_avx2: bool) -> tuple[str, ...]:
    """The npm packages with a Linux binary for such a machine, the fastest first.

    ``machine`` as ``platform.machine()`` and ``libc`` as ``platform.libc_ver()`` spell it. Empty
    where opencode has no binary for that machine.
    """
    architecture = ARCHITECTURES.get(machine.lower())
    suffix = "" if libc == "glibc" else "-musl"
    match architecture:
        case None:
            return ()
        case "x64":
            baseline = f"opencode-linux-x64-baseline{suffix}"
            return (f"opencode-linux-x64{suffix}", baseline) if has_avx2 else (baseline,)
        case _:
            return (f"opencode-linux-{architecture}{suffix}",)


def machine_packages() -> tuple[str, ...]:
    """``package_names`` of this machine; raises SetupError where opencode has none for it."""
    machine = platform.machine()
    names: tuple[str, ...] = ()
    if platform.system() == "Linux":
        names = package_names(machine, platform.libc_ver()[0], has_avx2=_has_avx2())
    if not names:
        raise SetupError(
            "unknown",
            raw_message=f"opencode has no binary that we can run on {platform.system()} {machine}",
            hint="Use a Linux machine with an x86-64 or arm64 processor.",
        )
    return names


def pinned_path(package: str) -> Path:
    """Where setup puts the pinned version's binary of an npm package."""
    return cache_dir() / "opencode" / PINNED_VERSION / package / "bin" / "opencode"


def find_binary(explicit: str | None) -> Path:
    """The native opencode binary to run, by an absolute path.

    ``explicit`` (a path, or a name on PATH) wins; then the environment variable
    OPENCODE_TASKS_OPENCODE_BIN, the version that setup installed, and ``opencode`` on PATH.
    Raises SetupError where the named one, or any at all, is missing; the version is not looked at.
    """
    if explicit is not None:
        return _named(explicit, "--opencode-bin")
    variable = os.environ.get(BINARY_VARIABLE)
    if variable:
        return _named(variable, BINARY_VARIABLE)
    packages = machine_packages()
    for package in packages:
        if _is_executable(pinned_path(package)):
            return pinned_path(package)
    on_path = shutil.which("opencode")
    if on_path is None:
        raise SetupError(
            "unknown", raw_message="opencode is neither in the user's cache nor on PATH", hint=SETUP_HINT
        )
    return native_binary(Path(on_path), packages)


def binary_here(path: Path) -> Path:
    """The binary of a run on this machine: ``path``, or its own where it has none there.

    ``path`` was found by the run's driver; a node of a cluster may have opencode elsewhere. Raises
    SetupError where it has none at all.
    """
    return path if _is_executable(path) else find_binary(None)


def native_binary(path: Path, packages: Sequence[str]) -> Path:
    """The native binary behind ``path``; ``path`` itself, made absolute, where none is found.

    A script is looked through to the first of ``packages`` that lies in a ``node_modules`` folder
    at or above it, in npm's, pnpm's and a global layout.
    """
    resolved = path.resolve()
    with resolved.open("rb") as file:
        if file.read(len(ELF_MAGIC)) == ELF_MAGIC:
            return resolved
    for folder in resolved.parents:
        for package in packages:
            candidate = folder / "node_modules" / package / "bin" / "opencode"
            if _is_executable(candidate):
                return candidate
    return path.absolute()


def version_of(binary: Path) -> str:
    """What ``--version`` of a binary says, like ``1.18.33``; asked once for each state of the file.

    Raises SetupError where the binary cannot be run or answers something else.
    """
    try:
        state = binary.stat()
    except OSError as error:
        raise SetupError(
            "unknown", raw_message=f"cannot read {binary}: {error.strerror}", hint=SETUP_HINT
        ) from error
    return _ask_version(binary, state.st_mtime_ns, state.st_size)


def version_to_run(binary: Path) -> str:
    """The version of a binary that is about to be started.

    Setup has asked the one that it installed, which lies in a folder of its version: not asked
    again, since that takes as long as a fifth of a server's start. Others as ``version_of``.
    """
    installed = cache_dir() / "opencode" / PINNED_VERSION
    return PINNED_VERSION if binary.is_relative_to(installed) and binary.exists() else version_of(binary)


def check_version(version: str) -> None:
    """Raise SetupError unless ``version`` is in the tested range."""
    if not _ordered(MIN_VERSION) <= _ordered(version) < _ordered(MAX_VERSION_EXCLUSIVE):
        raise SetupError(
            "unknown",
            raw_message=f"opencode {version} is not supported: "
            f"it must be at least {MIN_VERSION} and below {MAX_VERSION_EXCLUSIVE}",
            hint=f"Run `opencode-tasks setup` to install {PINNED_VERSION} for yourself, "
            "or name another binary with --opencode-bin.",
        )


def _named(name: str, source: str) -> Path:
    found = shutil.which(Path(name).expanduser())
    if found is None:
        raise SetupError(
            "unknown", raw_message=f"{source}: there is no program {name}", hint=f"Correct it. {SETUP_HINT}"
        )
    return native_binary(Path(found), machine_packages())


@lru_cache(maxsize=64)
def _ask_version(binary: Path, _mtime_ns: int, _size: int) -> str:
    # Opencode unpacks a library into TMPDIR and opens its folders even for --version.
    with tempfile.TemporaryDirectory(prefix="opencode-tasks-version-") as folder:
        private = dict.fromkeys(
            ("TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"), folder
        )
        finished = run_command(
            [str(binary), "--version"], env={**os.environ, **private}, timeout_s=VERSION_LIMIT_S
        )
    lines = finished.stdout.split()
    if finished.returncode != 0 or not lines or not re.match(r"v?\d+\.\d+\.\d+", lines[-1]):
        said = (finished.stderr or finished.stdout).strip()[-120:] or f"exit code {finished.returncode}"
        raise SetupError(
            "unknown", raw_message=f"{binary} --version names no version: {said}", hint=SETUP_HINT
        )
    return lines[-1].removeprefix("v")


def _ordered(version: str) -> tuple[int, ...]:
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, numbers.groups())) if numbers else ()


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _has_avx2() -> bool:
    try:
        return re.search(r"\bavx2\b", Path("/proc/cpuinfo").read_text()) is not None
    except OSError:
        return False
