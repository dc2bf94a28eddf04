"""A page of the documentation as a reader follows it: its files written, its commands run, word for word."""

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
LIMIT_S = 240
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = "$ "
CONTINUED = "    "
# What a reader's clone has that the pages name.
CLONED = ("flows", "deployments", "demo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page: a file where it has a title, else commands."""

    language: str
    title: str | None
    text: str

    @property
    def script(self) -> str:
        """What a shell does for a reader who does what the block says."""
        if self.title is not None:
            return f"printf %s {quote(self.text)} > {quote(self.title)}"
        assert self.language == "console", f"neither a file nor commands: {self.text}"
        lines = self.text.splitlines()
        typed = [line.removeprefix(PROMPT) for line in lines if line.startswith((PROMPT, CONTINUED))]
        assert typed, f"no command: {self.text}"
        return "\n".join(typed)


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page under docs/, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Block(language=one[1], title=one[2], text=one[3]) for one in FENCE.finditer(text)]


@contextmanager
def clone() -> Generator[Path]:
    """A reader's clone, in a folder of its own that is their HOME too; what runs there ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="page-"))
    try:
        for name in CLONED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.db*", "__pycache__"))
        yield folder
    finally:
        for process in at_home(folder):
            with suppress(psutil.Error):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def at_home(home: Path) -> list[psutil.Process]:
    """The processes that live in a HOME."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HOME") == str(home):
                found.append(process)
    return found


def follow(page: str, folder: Path, replaced: Mapping[str, str], env: Mapping[str, str]) -> Ran:
    """Do what a page says in a shell that stops at the first command that fails.

    ``replaced`` are the names that a reader would replace with their own.
    """
    script = "\n".join(block.script for block in blocks_of(page))
    for name, own in replaced.items():
        script = script.replace(name, own)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    told = os.environ | {"HOME": str(folder), "PATH": path, "PREFECT_HOME": str(folder / ".prefect"), **env}
    told |= {"RAY_TMPDIR": str(folder)}
    told = {name: value for name, value in told.items() if name != "PREFECT_API_URL"}
    log = folder / "page.log"
    with log.open("w") as out:
        # Job control, for the jobs that a page ends by name; output to a file, which outlives them.
        process = subprocess.Popen(
            ["bash", "-c", f"set -emx\n{script}\n"],
            cwd=folder,
            env=told,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait(timeout=20)
    return Ran(code=code, stdout=log.read_text(errors="replace"), stderr="")
