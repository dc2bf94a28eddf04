"""The opencode binary: where it is, and whether its version is supported.

The tested range was measured at both ends: plugin, HTTP routes and error shapes are the same from
1.15.13 to 1.18.33. A later version 1.x must pass the checks of ``opencode.capabilities`` when it starts.
Opencode 2.x has other commands and routes and is refused.

``opencode`` of npm is a Node script that starts the binary of the platform. If the package was installed
without its install scripts, it is a stub that prints an error. The package of the platform is beside it.
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

from opencode_tasks.errors import SetupError
from opencode_tasks.system import run_command
from opencode_tasks.system.folders import cache_folder

MIN_VERSION = "1.15.13"
# The tests have not been run with this version and later ones.
UNTESTED_FROM = "1.19.0"
MAX_VERSION_EXCLUSIVE = "2.0.0"
PINNED_VERSION = "1.18.33"

BINARY_VARIABLE = "OPENCODE_TASKS_OPENCODE_BIN"
SETUP_HINT = "Run `opencode-tasks setup` to install opencode."

# The first bytes of native programs of Linux and macOS.
NATIVE_MAGIC = (b"\x7fELF", b"\xcf\xfa\xed\xfe")
VERSION_LIMIT_S = 60.0
SYSTEMS = {"Linux": "linux", "Darwin": "darwin"}
ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def cache_dir() -> Path:
    """Directory of the downloads of ``setup``, in the user's cache. It may not exist."""
    return cache_folder()


def package_names(system: str, machine: str, libc: str, *, has_avx2: bool) -> tuple[str, ...]:
    """The npm packages with a binary for a machine, the fastest first; empty if there is none.

    ``system`` and ``machine`` are values of ``platform.system()`` and ``platform.machine()``, ``libc`` a name
    of ``platform.libc_ver()``, which only Linux has.
    """
    architecture = ARCHITECTURES.get(machine.lower())
    if architecture is None or system not in SYSTEMS:
        return ()
    name = f"opencode-{SYSTEMS[system]}-{architecture}"
    suffix = "-musl" if system == "Linux" and libc != "glibc" else ""
    if architecture != "x64":
        return (f"{name}{suffix}",)
    baseline = f"{name}-baseline{suffix}"
    return (f"{name}{suffix}", baseline) if has_avx2 else (baseline,)


def machine_packages() -> tuple[str, ...]:
    """``package_names`` of this machine. Raises SetupError if opencode has no binary for it."""
    system, machine = platform.system(), platform.machine()
    names = package_names(system, machine, platform.libc_ver()[0], has_avx2=_has_avx2())
    if not names:
        raise SetupError(
            "unknown",
            raw_message=f"opencode has no binary for {system} {machine}",
            hint="Use a machine with Linux or macOS and an x86-64 or arm64 processor.",
        )
    return names


def pinned_path(package: str) -> Path:
    """Path at which ``setup`` installs the pinned version's binary of an npm package."""
    return cache_dir() / "opencode" / PINNED_VERSION / package / "bin" / "opencode"


def find_binary(explicit: str | None) -> Path:
    """Absolute path of the native opencode binary to run.

    The first of these that is set: ``explicit`` (a path, or a name on PATH), the environment variable
    OPENCODE_TASKS_OPENCODE_BIN, the version that ``setup`` installed, ``opencode`` on PATH. The version
    is not checked. Raises SetupError if the named binary does not exist, or if there is none at all.
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


NO_BINARY = Path(os.devnull)
"""Binary of a backend that does not run opencode."""


def binary_here(path: Path) -> Path:
    """Binary of a run on this machine: ``path`` if it is here, else the machine's own. ``NO_BINARY`` stays.

    ``path`` comes from the driver of the run; a node of a cluster can have opencode at another path.
    Raises SetupError if this machine has none.
    """
    return path if path == NO_BINARY or _is_executable(path) else find_binary(None)


def native_binary(path: Path, packages: Sequence[str]) -> Path:
    """The native binary that ``path`` starts; the absolute ``path`` itself if none is found.

    For a script this is the binary of the first of ``packages`` in a ``node_modules`` directory beside or
    above it, in the layouts of npm, pnpm and a global installation.
    """
    resolved = path.resolve()
    with resolved.open("rb") as file:
        if file.read(4) in NATIVE_MAGIC:
            return resolved
    for folder in resolved.parents:
        for package in packages:
            candidate = folder / "node_modules" / package / "bin" / "opencode"
            if _is_executable(candidate):
                return candidate
    return path.absolute()


def version_of(binary: Path) -> str:
    """Version that a binary prints for ``--version``, such as ``1.18.33``. Cached until the file changes.

    Raises SetupError if the binary cannot be run or prints no version.
    """
    try:
        state = binary.stat()
    except OSError as error:
        raise SetupError(
            "unknown", raw_message=f"cannot read {binary}: {error.strerror}", hint=SETUP_HINT
        ) from error
    return _read_version(binary, state.st_mtime_ns, state.st_size)


def version_to_run(binary: Path) -> str:
    """Version of a binary that is about to be started.

    The binary that ``setup`` installed is not run for it: ``setup`` has checked its version, and running
    it takes a fifth of the time of a server start. Other binaries as in ``version_of``.
    """
    installed = cache_dir() / "opencode" / PINNED_VERSION
    return PINNED_VERSION if binary.is_relative_to(installed) and binary.exists() else version_of(binary)


def check_version(version: str) -> None:
    """Raise SetupError if ``version`` is outside the supported range."""
    numbers = _numbers(version)
    if _numbers(MIN_VERSION) <= numbers < _numbers(MAX_VERSION_EXCLUSIVE):
        return
    if numbers >= _numbers(MAX_VERSION_EXCLUSIVE):
        raise SetupError(
            "unknown",
            raw_message=f"opencode {numbers[0]} is not supported yet, and this is opencode {version}",
            hint=f"Run `opencode-tasks setup`: it installs {PINNED_VERSION} beside it.",
        )
    raise SetupError(
        "unknown",
        raw_message=f"opencode {version} is not supported: "
        f"it must be at least {MIN_VERSION} and below {MAX_VERSION_EXCLUSIVE}",
        hint=f"Run `opencode-tasks setup` to install {PINNED_VERSION}, "
        "or name another binary with --opencode-bin.",
    )


def is_untested(version: str) -> bool:
    """Whether a supported version is later than the tested ones."""
    return _numbers(version) >= _numbers(UNTESTED_FROM)


def _named(name: str, source: str) -> Path:
    found = shutil.which(Path(name).expanduser())
    if found is None:
        raise SetupError(
            "unknown",
            raw_message=f"{source}: there is no program {name}",
            hint=f"Correct the path. {SETUP_HINT}",
        )
    return native_binary(Path(found), machine_packages())


@lru_cache(maxsize=64)
def _read_version(binary: Path, _mtime_ns: int, _size: int) -> str:
    # Even for --version, opencode unpacks a library into TMPDIR and opens its directories.
    with tempfile.TemporaryDirectory(prefix="opencode-tasks-version-") as folder:
        private = dict.fromkeys(
            ("TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"), folder
        )
        finished = run_command(
            [str(binary), "--version"], env={**os.environ, **private}, timeout_s=VERSION_LIMIT_S
        )
    lines = finished.stdout.split()
    if finished.returncode != 0 or not lines or not re.match(r"v?\d+\.\d+\.\d+", lines[-1]):
        detail = (finished.stderr or finished.stdout).strip()[-120:] or f"exit code {finished.returncode}"
        raise SetupError(
            "unknown", raw_message=f"{binary} --version printed no version: {detail}", hint=SETUP_HINT
        )
    return lines[-1].removeprefix("v")


def _numbers(version: str) -> tuple[int, ...]:
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, numbers.groups())) if numbers else ()


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _has_avx2() -> bool:
    if platform.system() == "Darwin":
        features = run_command(["/usr/sbin/sysctl", "-n", "machdep.cpu.leaf7_features"], timeout_s=10)
        return "AVX2" in features.stdout
    try:
        return re.search(r"\bavx2\b", Path("/proc/cpuinfo").read_text()) is not None
    except OSError:
        return False
