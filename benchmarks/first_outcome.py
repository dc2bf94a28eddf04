"""What passes between the command `opencode-tasks annotate` and its first row's outcome.

    python benchmarks/first_outcome.py [threads] [ray] [--times N]

Each run is cold: a HOME of its own in which opencode is set up, no Prefect server and no Ray that
already run. The provider is the scripted one, which answers at once. Of N runs (3) the one with
the median time is shown: its moments as the command told them, the line of parts that the command
prints itself, and the CPU seconds of each program until then.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from opencode_tasks.opencode.binary import cache_dir, find_binary
from opencode_tasks.testing import ScriptedProvider

COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
LIMIT_S = 180
ROWS = 40
LOOK_S = 0.1
FOREIGN = ("OPENCODE", "PREFECT_", "RAY_", "XDG_")
# A process by the first of these words on its command line.
PROGRAMS = (
    ("opencode serve", "serve --hostname"),
    ("opencode --version", "--version"),
    ("Prefect server", "prefect server"),
    ("Prefect server", "prefect.server"),
    ("guards", "system/guard.py"),
    ("Ray: workers", "ray::"),
    ("Ray: workers", "default_worker.py"),
    ("Ray: GCS", "gcs_server"),
    ("Ray: raylet", "raylet/raylet"),
    ("Ray: agents, monitor, dashboard", "/ray/"),
    ("opencode-tasks", "opencode-tasks"),
)


@dataclass(slots=True)
class Measured:
    """One run until its first outcome; seconds since the command began."""

    seconds: float = 0.0
    total_s: float = 0.0
    moments: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    cpu_s: dict[str, float] = field(default_factory=dict[str, float])


def measure(runner: str) -> Measured:
    """Run the command once, in folders of its own."""
    # Short, since Ray makes sockets below it.
    with tempfile.TemporaryDirectory(prefix="fo-") as name, ScriptedProvider() as provider:
        folder = Path(name)
        env = private(folder)
        config = folder / "opencode.json"
        config.write_text(json.dumps(provider.opencode_config()))
        (folder / "in.csv").write_text("\n".join(["prompt", *(f"row {i:03}" for i in range(ROWS))]) + "\n")
        arguments = ["annotate", "in.csv", "-o", "out.csv", "--ledger", "ledger.db", "--model", "fake/echo"]
        arguments += ["--opencode-config", str(config), "--runner", runner]
        measured = Measured()
        before = time.time()
        process = subprocess.Popen(
            [COMMAND, *arguments],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        reader = threading.Thread(target=read_lines, args=(process, before, measured.moments), daemon=True)
        reader.start()
        try:
            watch(process, folder, before, measured)
            process.wait(LIMIT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                process.wait(60)
        reader.join(5)
        measured.total_s = time.time() - before
        if process.returncode != 0:
            sys.exit("\n".join(text for _, text in measured.moments))
        measured.moments.append((provider.calls[0].at - before, "(the provider is asked for the first time)"))
        measured.moments.sort()
        return measured


def private(folder: Path) -> dict[str, str]:
    """An environment without the user's own settings, opencode set up in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN) and not k.endswith("_API_KEY")}
    homes = {f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "STATE")}
    for path in homes.values():
        Path(path).mkdir(mode=0o700)
    (folder / "cache" / "opencode-tasks").symlink_to(cache_dir())
    (folder / "tmp").mkdir()
    return kept | homes | {"HOME": str(folder), "TMPDIR": str(folder / "tmp")}


def read_lines(process: subprocess.Popen[str], before: float, moments: list[tuple[float, str]]) -> None:
    """Note what the command says, and when."""
    assert process.stderr is not None
    moments.extend((time.time() - before, line.rstrip()) for line in process.stderr)


def watch(process: subprocess.Popen[str], folder: Path, before: float, measured: Measured) -> None:
    """Until the first outcome is in the ledger, look at the processes that live in the folder."""
    known: dict[int, tuple[str, float]] = {}
    strangers: set[int] = set()
    while process.poll() is None and time.time() - before < LIMIT_S:
        look(folder, known, strangers)
        if (at := first_outcome(folder / "ledger.db")) is not None:
            measured.seconds = at - before
            look(folder, known, strangers)
            break
        time.sleep(LOOK_S)
    cpu: dict[str, float] = defaultdict(float)
    for program, seconds in known.values():
        cpu[program] += seconds
    measured.cpu_s = dict(cpu)


def look(folder: Path, known: dict[int, tuple[str, float]], strangers: set[int]) -> None:
    """Note program and CPU seconds of each process whose HOME is the folder."""
    for pid in psutil.pids():
        if pid in strangers:
            continue
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            # Ray's own services and guards have an environment of their own; their folder tells them.
            line = " ".join(process.cmdline())
            if pid not in known and not belongs(process, line, folder):
                if process.create_time() < time.time() - 2:
                    strangers.add(pid)
                continue
            times = process.cpu_times()
            known[pid] = (program_of(line) or known.get(pid, ("other",))[0], times.user + times.system)


def belongs(process: psutil.Process, line: str, folder: Path) -> bool:
    """Whether a process was started by the command."""
    if str(folder) in line:
        return True
    with suppress(psutil.Error):
        if process.environ().get("HOME") == str(folder):
            return True
    return process.pid != os.getpid() and "system/guard.py" in line


def program_of(line: str) -> str | None:
    """The name under which a command line is counted."""
    return next((name for name, word in PROGRAMS if word in line), None)


def first_outcome(ledger: Path) -> float | None:
    """When the first row ended, as seconds since 1970; None while none has."""
    if not ledger.exists():
        return None
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        ended = "SELECT count(*) FROM rows WHERE status != 'open'"
        if connection.execute(ended).fetchone()[0]:
            return time.time()
    return None


def show(runner: str, runs: list[Measured]) -> None:
    """Print the median run."""
    runs.sort(key=lambda run: run.seconds)
    run = runs[len(runs) // 2]
    times = ", ".join(f"{one.seconds:.1f}" for one in runs)
    print(f"\n{runner}: first outcome after {run.seconds:.1f} s (all: {times}); the run {run.total_s:.1f} s")
    for at, text in run.moments:
        print(f"  {at:6.2f}  {text}")
    print(f"  CPU seconds until the first outcome: {sum(run.cpu_s.values()):.1f}")
    for name, seconds in sorted(run.cpu_s.items(), key=lambda item: -item[1]):
        print(f"  {seconds:6.2f}  {name}")


def main() -> None:
    """Measure what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runner", nargs="*", default=["threads", "ray"], metavar="threads|ray")
    parser.add_argument("--times", type=int, default=3)
    told = parser.parse_args()
    find_binary(None)
    for runner in told.runner:
        show(runner, [measure(runner) for _ in range(told.times)])


if __name__ == "__main__":
    main()
