"""Time from the command `opencode-tasks annotate` to the first recorded outcome.

    python benchmarks/first_outcome.py [threads] [ray] [--times N]

Each run is cold: a new HOME with opencode installed, and no running Prefect server or Ray. The scripted
provider answers immediately. Prints the run with the median time of N runs (default 3): the log of the
command with the time of each line, and the CPU seconds of each program until the first outcome.
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
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from opencode_tasks.opencode.binary import cache_dir, find_binary
from opencode_tasks.testing import ScriptedProvider

COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
LIMIT_S = 180
ROWS = 40
SAMPLE_INTERVAL_S = 0.1
USER_SETTINGS = ("OPENCODE", "PREFECT_", "RAY_", "XDG_")
# The name of a program and a part of its command line; the first match counts.
PROGRAMS = (
    ("opencode serve", "serve --hostname"),
    ("opencode --version", "--version"),
    ("Prefect server", "prefect server"),
    ("Prefect server", "prefect.server"),
    ("guards", "system/process_guard.py"),
    ("Ray: workers", "ray::"),
    ("Ray: workers", "default_worker.py"),
    ("Ray: GCS", "gcs_server"),
    ("Ray: raylet", "raylet/raylet"),
    ("Ray: agents, monitor, dashboard", "/ray/"),
    ("opencode-tasks", "opencode-tasks"),
)


@dataclass(slots=True)
class Result:
    """Result of one run.

    ``seconds`` is the time to the first outcome, ``total_s`` the time of the command. ``log`` has the lines
    of the command with their times, and ``cpu_s`` the CPU seconds by program until the first outcome.
    """

    seconds: float = 0.0
    total_s: float = 0.0
    log: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    cpu_s: dict[str, float] = field(default_factory=dict[str, float])


def measure(runner: str, command: Sequence[str] = (COMMAND,)) -> Result:
    """Run the command once in a new folder."""
    # A short path: Ray creates sockets in it.
    with tempfile.TemporaryDirectory(prefix="fo-") as name, ScriptedProvider() as provider:
        folder = Path(name)
        env = private_environment(folder)
        config = folder / "opencode.json"
        config.write_text(json.dumps(provider.opencode_config()))
        (folder / "in.csv").write_text("\n".join(["prompt", *(f"row {i:03}" for i in range(ROWS))]) + "\n")
        arguments = ["annotate", "in.csv", "-o", "out.csv", "--ledger", "ledger.db", "--model", "fake/echo"]
        arguments += ["--opencode-config", str(config), "--runner", runner]
        result = Result()
        started_at = time.time()
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        reader = threading.Thread(target=read_lines, args=(process, started_at, result.log), daemon=True)
        reader.start()
        try:
            sample_until_outcome(process, folder, started_at, result)
            process.wait(LIMIT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                process.wait(60)
        reader.join(5)
        result.total_s = time.time() - started_at
        if process.returncode != 0:
            sys.exit("\n".join(text for _, text in result.log))
        result.log.append((provider.calls[0].at - started_at, "(the provider receives the first call)"))
        result.log.sort()
        return result


def private_environment(folder: Path) -> dict[str, str]:
    """Return an environment without the settings of the user, in which opencode is installed."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(USER_SETTINGS) and not name.endswith("_API_KEY")
    }
    homes = {f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "STATE")}
    for path in homes.values():
        Path(path).mkdir(mode=0o700)
    (folder / "cache" / "opencode-tasks").symlink_to(cache_dir())
    (folder / "tmp").mkdir()
    return kept | homes | {"HOME": str(folder), "TMPDIR": str(folder / "tmp")}


def read_lines(process: subprocess.Popen[str], started_at: float, log: list[tuple[float, str]]) -> None:
    """Add each line of stderr to the log with its time."""
    assert process.stderr is not None
    log.extend((time.time() - started_at, line.rstrip()) for line in process.stderr)


def sample_until_outcome(
    process: subprocess.Popen[str], folder: Path, started_at: float, result: Result
) -> None:
    """Sample the processes of the command until the first outcome is in the ledger."""
    known: dict[int, tuple[str, float]] = {}
    others: set[int] = set()
    while process.poll() is None and time.time() - started_at < LIMIT_S:
        sample(folder, known, others)
        if (at := first_outcome(folder / "ledger.db")) is not None:
            result.seconds = at - started_at
            sample(folder, known, others)
            break
        time.sleep(SAMPLE_INTERVAL_S)
    cpu: dict[str, float] = defaultdict(float)
    for program, seconds in known.values():
        cpu[program] += seconds
    result.cpu_s = dict(cpu)


def sample(folder: Path, known: dict[int, tuple[str, float]], others: set[int]) -> None:
    """Record program and CPU seconds of each process that the command started.

    ``others`` are processes that it did not start.
    """
    for pid in psutil.pids():
        if pid in others:
            continue
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            command = " ".join(process.cmdline())
            if pid not in known and not was_started(process, command, folder):
                if process.create_time() < time.time() - 2:
                    others.add(pid)
                continue
            times = process.cpu_times()
            known[pid] = (program_of(command) or known.get(pid, ("other",))[0], times.user + times.system)


def was_started(process: psutil.Process, command: str, folder: Path) -> bool:
    """Return whether the command started a process."""
    # Services of Ray and guards have another environment, but the folder is on their command line.
    if str(folder) in command:
        return True
    with suppress(psutil.Error):
        if process.environ().get("HOME") == str(folder):
            return True
    return process.pid != os.getpid() and "system/process_guard.py" in command


def program_of(command: str) -> str | None:
    """Return the program of a command line; None if it is unknown."""
    return next((name for name, part in PROGRAMS if part in command), None)


def first_outcome(ledger: Path) -> float | None:
    """Return the time of the first outcome in seconds since 1970; None if there is none."""
    if not ledger.exists():
        return None
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        ended = "SELECT count(*) FROM rows WHERE status != 'open'"
        if connection.execute(ended).fetchone()[0]:
            return time.time()
    return None


def print_median(runner: str, runs: list[Result]) -> None:
    """Print the run with the median time."""
    runs.sort(key=lambda run: run.seconds)
    run = runs[len(runs) // 2]
    times = ", ".join(f"{run.seconds:.1f}" for run in runs)
    print(f"\n{runner}: first outcome after {run.seconds:.1f} s (all runs: {times})")
    print(f"{runner}: end of the command after {run.total_s:.1f} s")
    for at, text in run.log:
        print(f"  {at:6.2f}  {text}")
    print(f"  CPU seconds until the first outcome: {sum(run.cpu_s.values()):.1f}")
    for name, seconds in sorted(run.cpu_s.items(), key=lambda item: -item[1]):
        print(f"  {seconds:6.2f}  {name}")


def main() -> None:
    """Measure the named runners."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runner", nargs="*", default=["threads", "ray"], metavar="threads|ray")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    find_binary(None)
    for runner in options.runner:
        print_median(runner, [measure(runner) for _ in range(options.times)])


if __name__ == "__main__":
    main()
