"""A private folder, a scripted provider and programs that end with it, for pictures of real runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencode_tasks.testing import Reply, ScriptedProvider

ROOT = Path(__file__).parents[2]
REVIEWS = ROOT / "demo" / "reviews.csv"
PROVIDER, MODEL = "anthropic", "claude-haiku-4-5"
PRICED: Mapping[str, Any] = {"cost": {"input": 1, "output": 5}, "limit": {"context": 200_000, "output": 8000}}
ANSWER = Reply(text="positive", delay_s=0.5, input_tokens=180, output_tokens=6)
# No program outlives this, whatever happens to the script that started it.
LIFETIME_S = 300
END_LIMIT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A user's folder, with a config whose provider answers from this machine."""

    folder: Path
    provider: ScriptedProvider
    env: Mapping[str, str]

    def configure(self) -> None:
        """Write opencode's config, with the models that the provider has now."""
        config = self.folder / ".config" / "opencode" / "opencode.json"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps(self.provider.opencode_config(name=PROVIDER)))

    def command(self, program: str, *arguments: str) -> list[str]:
        """A program of this environment, with a bounded lifetime."""
        return ["timeout", str(LIFETIME_S), str(Path(sys.executable).with_name(program)), *arguments]

    def run(self, program: str, *arguments: str) -> None:
        """Run a program to its end; raises RuntimeError with its output if it fails."""
        command = self.command(program, *arguments)
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stdout}{done.stderr}")

    @contextmanager
    def running(self, program: str, *arguments: str, cwd: Path | None = None) -> Generator[Path]:
        """Start a program, end it with all its children on exit; the path of its log."""
        log = self.folder / f"{program}-{arguments[0]}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                self.command(program, *arguments),
                cwd=cwd or self.folder,
                env=self.env,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            yield log
        finally:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children: with SIGTERM, and with SIGKILL what is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=END_LIMIT_S)


@contextmanager
def scene(rules: Sequence[tuple[Callable[[Any], bool], Reply]] = ()) -> Generator[Scene]:
    """A scene whose provider follows these rules first, and otherwise gives one answer."""
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="scene-", ignore_cleanup_errors=True))
        )
        provider = stack.enter_context(ScriptedProvider(models={MODEL: PRICED}))
        for match, reply in rules:
            provider.on(match, reply)
        provider.on("", ANSWER)
        (folder / REVIEWS.name).write_bytes(REVIEWS.read_bytes())
        here = Scene(folder=folder, provider=provider, env=private_environment(folder))
        here.configure()
        yield here


def private_environment(folder: Path) -> dict[str, str]:
    """The environment of a user who lives in a folder; only the cache of downloads is shared."""
    foreign = ("OPENCODE", "PREFECT_", "RAY_", "XDG_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return env | {
        "DO_NOT_TRACK": "1",
        "HOME": str(folder),
        "PREFECT_HOME": str(folder / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "XDG_CACHE_HOME": cache,
        "XDG_CONFIG_HOME": str(folder / ".config"),
        "XDG_DATA_HOME": str(folder / ".data"),
        "XDG_STATE_HOME": str(folder / ".state"),
    }


def wait_for(claim: Callable[[], bool], log: Path) -> None:
    """Wait until a claim holds; raises RuntimeError with the end of a log if it takes too long."""
    deadline = time.monotonic() + LIFETIME_S / 2
    while not claim():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing happened for too long: {log.read_text()[-4000:]}")
        time.sleep(0.2)
