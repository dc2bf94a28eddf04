"""Runs a page of the documentation: writes its files and executes its commands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import psutil
from cluster import Ran

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LIMIT_S = 450
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = "$ "
CONTINUED = "    "
# Folders of the repository that the pages use.
REPOSITORY_FOLDERS = ("flows", "deployments", "demo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page: a file if it has a title, else commands."""

    language: str
    title: str | None
    text: str

    @property
    def script(self) -> str:
        """Shell code that writes the file or executes the commands."""
        if self.title is not None:
            return f"printf %s {quote(self.text)} > {quote(self.title)}"
        assert self.language == "console", f"not a file and not commands: {self.text}"
        lines = self.text.splitlines()
        commands = [line.removeprefix(PROMPT) for line in lines if line.startswith((PROMPT, CONTINUED))]
        assert commands, f"no command: {self.text}"
        return "\n".join(commands)


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page in docs/ in their order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Block(language=match[1], title=match[2], text=match[3]) for match in FENCE.finditer(text)]


@contextmanager
def clone() -> Generator[Path]:
    """Create a clone in a new folder, which is also HOME; kill its processes and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="page-"))
    try:
        for name in REPOSITORY_FOLDERS:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.db*", "__pycache__"))
        yield folder
    finally:
        for process in processes_of(folder):
            with suppress(psutil.Error):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(home: Path) -> list[psutil.Process]:
    """Return the processes with this HOME."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HOME") == str(home):
                found.append(process)
    return found


def follow(page: str, folder: Path, replaced: Mapping[str, str], env: Mapping[str, str]) -> Ran:
    """Run a page in a shell that stops at the first failed command.

    ``replaced`` are names that a reader replaces with other ones.
    """
    script = "\n".join(block.script for block in blocks_of(page))
    for name, replacement in replaced.items():
        script = script.replace(name, replacement)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {
        "HOME": str(folder),
        "PATH": path,
        "PREFECT_HOME": str(folder / ".prefect"),
        # A flow without an API starts a server, for which Prefect waits 20 s by default.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        **env,
    }
    environment |= {"RAY_TMPDIR": str(folder)}
    environment.pop("PREFECT_API_URL", None)
    log = folder / "page.log"
    with log.open("w") as output:
        # With job control, because a page ends its jobs by name. A file takes output after the shell ended.
        process = subprocess.Popen(
            ["bash", "-c", f"set -emx\n{script}\n"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait(timeout=20)
    return Ran(code=code, stdout=log.read_text(errors="replace"), stderr="")
