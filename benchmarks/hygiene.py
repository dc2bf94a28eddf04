"""Memory and disk space that opencode servers use while one worker annotates many rows.

    python benchmarks/hygiene.py [--rows 10000] [--server-rows 2000] [--plot memory.svg]

Runs ``opencode-tasks annotate`` once on threads with 32 rows in flight. The scripted provider answers
immediately. Prints a table of samples and the durations of the rows; ``--plot`` also draws memory and disk
space over the rows. Exits with 1 if a row did not complete or if a prompt was not sent exactly once.
``--server-rows`` sets OPENCODE_TASKS_SERVER_ROWS, the number of rows after which a server is replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from plot import Panel, svg_plot

from opencode_tasks.opencode.binary import find_binary
from opencode_tasks.testing import ScriptedProvider

COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
CONCURRENCY = 32
SAMPLE_INTERVAL_S = 2.0
PRINT_EVERY = 5
HEADER = """\
| s | rows | servers | started | servers MB | worker MB | disk MB |
|---|---|---|---|---|---|---|"""
MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """State of the run ``seconds`` after its start.

    ``rows`` are completed rows, ``servers`` those that run now, ``started`` those that have run so
    far. Memory is resident memory.
    """

    seconds: float
    rows: int
    servers: int
    started: int
    servers_mb: float
    worker_mb: float
    disk_mb: float

    def __str__(self) -> str:
        """One line of the table."""
        memory = f"{self.servers_mb:.0f} | {self.worker_mb:.0f} | {self.disk_mb:.1f}"
        return f"| {self.seconds:.0f} | {self.rows} | {self.servers} | {self.started} | {memory} |"


class Sampler:
    """Samples the processes of a run, its ledger and the folders of its servers."""

    def __init__(self, worker_pid: int, folder: Path) -> None:
        self.samples: list[Sample] = []
        self._worker = psutil.Process(worker_pid)
        self._folder = folder
        self._instance_dirs = instance_dirs(folder)
        self._started_at = time.monotonic()
        self._server_pids: set[int] = set()

    def sample(self) -> Sample:
        """Take a sample."""
        servers = self._server_memory()
        self._server_pids |= servers.keys()
        worker_bytes = 0
        with contextlib.suppress(psutil.Error):
            worker_bytes = self._worker.memory_info().rss
        self.samples.append(
            Sample(
                seconds=time.monotonic() - self._started_at,
                rows=self._completed_rows(),
                servers=len(servers),
                started=len(self._server_pids),
                servers_mb=sum(servers.values()) / MB,
                worker_mb=worker_bytes / MB,
                disk_mb=sum(map(_file_bytes, self._instance_dirs.rglob("*"))) / MB,
            )
        )
        return self.samples[-1]

    def _server_memory(self) -> dict[int, int]:
        """Return the resident memory in bytes of each ``opencode serve`` of this run by process id."""
        found: dict[int, int] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if "serve" in process.cmdline() and Path(process.cwd()).is_relative_to(self._instance_dirs):
                    found[process.pid] = process.memory_info().rss
        return found

    def _completed_rows(self) -> int:
        with contextlib.suppress(sqlite3.Error):
            ledger = sqlite3.connect(f"file:{self._folder / 'ledger.db'}?mode=ro", uri=True)
            with contextlib.closing(ledger):
                [(count,)] = ledger.execute("select count(*) from rows where status = 'completed'")
                return int(count)
        return 0


def instance_dirs(folder: Path) -> Path:
    """Return the folder in which each server of the run has its data."""
    return folder / "data" / "opencode-tasks" / "opencode"


def _file_bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def annotate(rows: int, server_rows: int | None, folder: Path, provider: ScriptedProvider) -> list[Sample]:
    """Annotate ``rows`` rows and return the samples; print some of them during the run."""
    config = folder / "opencode.json"
    config.write_text(json.dumps(provider.opencode_config()))
    lines = "\n".join(["prompt", *(f"row {number:05}" for number in range(rows))])
    (folder / "in.csv").write_text(lines + "\n")
    env = os.environ | {key: str(folder / "home") for key in ("HOME", "XDG_CONFIG_HOME")}
    env["XDG_DATA_HOME"] = str(folder / "data")
    if server_rows is not None:
        env["OPENCODE_TASKS_SERVER_ROWS"] = str(server_rows)
    arguments = ["annotate", "in.csv", "-o", "out.csv", "--ledger", "ledger.db", "--model", "fake/echo"]
    arguments += ["--opencode-config", str(config), "--opencode-bin", str(find_binary(None))]
    arguments += ["--runner", "threads", "--concurrency", str(CONCURRENCY)]
    with (folder / "log.txt").open("w") as log:
        run = subprocess.Popen([COMMAND, *arguments], cwd=folder, env=env, stdout=log, stderr=log)
        sampler = Sampler(run.pid, folder)
        try:
            print(HEADER, flush=True)
            while run.poll() is None:
                sample = sampler.sample()
                if len(sampler.samples) % PRINT_EVERY == 1:
                    print(sample, flush=True)
                time.sleep(SAMPLE_INTERVAL_S)
        finally:
            run.kill()
            run.wait()
    print(sampler.sample())
    if run.returncode != 0:
        sys.exit((folder / "log.txt").read_text()[-2000:])
    return sampler.samples


def plot(samples: Sequence[Sample]) -> str:
    """Return a plot of memory and disk space over the completed rows as SVG."""
    rows = [sample.rows for sample in samples]
    memory = {
        "servers": [sample.servers_mb for sample in samples],
        "worker": [sample.worker_mb for sample in samples],
    }
    disk = {"instance directories": [sample.disk_mb for sample in samples]}
    panels = [Panel(title="resident memory in MB", lines=memory), Panel(title="disk space in MB", lines=disk)]
    return svg_plot("rows completed", rows, panels)


def print_peaks(samples: Sequence[Sample]) -> None:
    """Print the highest memory and disk space."""
    peak = max(samples, key=lambda sample: sample.servers_mb)
    disk_mb = max(sample.disk_mb for sample in samples)
    print(f"\npeak: {peak.servers_mb:.0f} MB in {peak.servers} servers, ", end="")
    print(f"{disk_mb:.1f} MB on disk, {samples[-1].started} servers started")


def check(folder: Path, provider: ScriptedProvider, rows: int) -> None:
    """Print the durations of the rows; exit with 1 if a row is missing or was sent more than once."""
    with (folder / "out.csv").open(newline="") as file:
        output = list(csv.DictReader(file))
    statuses = Counter(row["status"] for row in output)
    sent = Counter(provider.prompts())
    durations = sorted(float(row["duration_s"]) for row in output if row["duration_s"])
    p99 = statistics.quantiles(durations, n=100)[98]
    median = statistics.median(durations)
    print(
        f"seconds per row: {median:.2f} (median), {p99:.2f} (99th percentile), {durations[-1]:.2f} (maximum)"
    )
    remaining = [str(path) for path in instance_dirs(folder).glob("*")]
    print(f"rows: {dict(statuses)}; prompts: {len(sent)}, each sent {max(sent.values())} times at most")
    print(f"folders of servers that were not removed: {len(remaining)}")
    if statuses != {"completed": rows} or set(sent.values()) != {1} or len(sent) != rows or remaining:
        sys.exit(1)


def main() -> None:
    """Run the benchmark."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--server-rows", type=int)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ScriptedProvider() as provider:
        folder = Path(name)
        started_at = time.monotonic()
        samples = annotate(options.rows, options.server_rows, folder, provider)
        seconds = time.monotonic() - started_at
        print_peaks(samples)
        if options.plot:
            options.plot.write_text(plot(samples), encoding="utf-8")
        print(f"{options.rows} rows in {seconds:.0f} s, {options.rows / seconds:.1f} rows/s")
        check(folder, provider, options.rows)


if __name__ == "__main__":
    main()
