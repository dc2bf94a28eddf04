"""What warm servers take of memory and disk while one worker annotates many rows.

    python benchmarks/hygiene.py [--rows 10000] [--recycle 2000] [--plot hygiene.svg]

One ``opencode-tasks annotate`` on threads, 32 rows in flight, against the scripted provider, which
answers at once. Prints a table over time and the rows' durations, draws a plot, and fails where a
row did not complete or a prompt was not asked exactly once. ``--recycle`` is the setting
OPENCODE_TASKS_SERVER_ROWS; without it its default holds.
"""

# Altair's own types are unions of hundreds of generated classes.
# pyright: reportUnknownMemberType=false

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
from dataclasses import asdict, dataclass
from pathlib import Path

import altair as alt
import psutil

from opencode_tasks.opencode.binary import find_binary
from opencode_tasks.testing import ScriptedProvider

COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
CONCURRENCY = 32
LOOK_EVERY_S = 2.0
TELL_EVERY = 5
HEADER = """\
| s | rows | servers | started | servers MB | worker MB | disk MB |
|---|---|---|---|---|---|---|"""
MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look: seconds since the start, completed rows, and megabytes; ``servers`` run at once."""

    seconds: float
    rows: int
    servers: int
    started: int
    servers_mb: float
    worker_mb: float
    disk_mb: float


class Watch:
    """Looks at a run's processes, its ledger and the homes of its servers."""

    def __init__(self, worker: int, folder: Path) -> None:
        self.samples: list[Sample] = []
        self._worker = psutil.Process(worker)
        self._folder = folder
        self._homes = folder / "data" / "opencode-tasks" / "opencode"
        self._begun = time.monotonic()
        self._pids: set[int] = set()

    def look(self) -> None:
        """Take a sample."""
        servers = self._servers()
        self._pids |= servers.keys()
        worker = 0
        with contextlib.suppress(psutil.Error):
            worker = self._worker.memory_info().rss
        self.samples.append(
            Sample(
                seconds=time.monotonic() - self._begun,
                rows=self._completed(),
                servers=len(servers),
                started=len(self._pids),
                servers_mb=sum(servers.values()) / MB,
                worker_mb=worker / MB,
                disk_mb=sum(map(_size, self._homes.rglob("*"))) / MB,
            )
        )

    def _servers(self) -> dict[int, int]:
        """The resident memory of each ``opencode serve`` in our homes, by process."""
        found: dict[int, int] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if "serve" in process.cmdline() and Path(process.cwd()).is_relative_to(self._homes):
                    found[process.pid] = process.memory_info().rss
        return found

    def _completed(self) -> int:
        with contextlib.suppress(sqlite3.Error):
            ledger = sqlite3.connect(f"file:{self._folder / 'ledger.db'}?mode=ro", uri=True)
            with contextlib.closing(ledger):
                [(count,)] = ledger.execute("select count(*) from rows where status = 'completed'")
                return int(count)
        return 0


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def annotate(count: int, recycle: int | None, folder: Path, provider: ScriptedProvider) -> list[Sample]:
    """Annotate so many rows; the samples taken meanwhile."""
    config = folder / "opencode.json"
    config.write_text(json.dumps(provider.opencode_config()))
    lines = "\n".join(["prompt", *(f"row {number:05}" for number in range(count))])
    (folder / "in.csv").write_text(lines + "\n")
    env = os.environ | {key: str(folder / "home") for key in ("HOME", "XDG_CONFIG_HOME")}
    env["XDG_DATA_HOME"] = str(folder / "data")
    if recycle is not None:
        env["OPENCODE_TASKS_SERVER_ROWS"] = str(recycle)
    arguments = ["annotate", "in.csv", "-o", "out.csv", "--ledger", "ledger.db", "--model", "fake/echo"]
    arguments += ["--opencode-config", str(config), "--opencode-bin", str(find_binary(None))]
    arguments += ["--runner", "threads", "--concurrency", str(CONCURRENCY)]
    with (folder / "errors.txt").open("w") as errors:
        run = subprocess.Popen([COMMAND, *arguments], cwd=folder, env=env, stdout=errors, stderr=errors)
        watch = Watch(run.pid, folder)
        try:
            print(HEADER, flush=True)
            while run.poll() is None:
                watch.look()
                if len(watch.samples) % TELL_EVERY == 1:
                    print(line_of(watch.samples[-1]), flush=True)
                time.sleep(LOOK_EVERY_S)
        finally:
            run.kill()
            run.wait()
    watch.look()
    print(line_of(watch.samples[-1]))
    if run.returncode != 0:
        sys.exit((folder / "errors.txt").read_text()[-2000:])
    return watch.samples


def draw(samples: list[Sample], path: Path) -> None:
    """Memory and disk over the rows, as an SVG or PNG file."""
    values = [
        {"rows": sample["rows"], "MB": sample[name], "of": label, "panel": panel}
        for sample in map(asdict, samples)
        for name, label, panel in (
            ("servers_mb", "servers, resident", "memory"),
            ("worker_mb", "worker, resident", "memory"),
            ("disk_mb", "homes, on disk", "disk"),
        )
    ]
    panels = [
        alt.Chart(alt.Data(values=[value for value in values if value["panel"] == panel]))
        .mark_line()
        .encode(x=alt.X("rows:Q", title="rows completed"), y="MB:Q", color=alt.Color("of:N", title=None))
        .properties(width=760, height=height)
        for panel, height in (("memory", 220), ("disk", 140))
    ]
    alt.vconcat(*panels).resolve_scale(color="shared").save(str(path))


def line_of(one: Sample) -> str:
    """A sample as a line of the table."""
    memory = f"{one.servers_mb:.0f} | {one.worker_mb:.0f} | {one.disk_mb:.1f}"
    return f"| {one.seconds:.0f} | {one.rows} | {one.servers} | {one.started} | {memory} |"


def tell(samples: list[Sample]) -> None:
    """Print what was the most of each."""
    most = max(samples, key=lambda one: one.servers_mb)
    print(f"\nmost: {most.servers_mb:.0f} MB in {most.servers} servers, ", end="")
    print(f"{max(one.disk_mb for one in samples):.1f} MB on disk, {samples[-1].started} servers in all")


def check(folder: Path, provider: ScriptedProvider, count: int) -> None:
    """Print how long rows took; exit with 1 where one is missing or was asked twice."""
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    statuses = Counter(row["status"] for row in rows)
    asked = Counter(provider.prompts())
    durations = sorted(float(row["duration_s"]) for row in rows if row["duration_s"])
    p99 = statistics.quantiles(durations, n=100)[98]
    median = statistics.median(durations)
    print(f"a row took {median:.2f} s (median), {p99:.2f} s (99 %), {durations[-1]:.2f} s (most)")
    left = [str(path) for path in (folder / "data" / "opencode-tasks" / "opencode").glob("*")]
    print(f"rows: {dict(statuses)}; prompts asked: {len(asked)}, at most {max(asked.values())} times each")
    print(f"homes left: {len(left)}")
    if statuses != {"completed": count} or set(asked.values()) != {1} or len(asked) != count or left:
        sys.exit(1)


def main() -> None:
    """Run, watch, tell, draw, check."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--recycle", type=int)
    parser.add_argument("--plot", type=Path, default=Path("hygiene.svg"))
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ScriptedProvider() as provider:
        folder = Path(name)
        started = time.monotonic()
        samples = annotate(told.rows, told.recycle, folder, provider)
        seconds = time.monotonic() - started
        tell(samples)
        draw(samples, told.plot)
        print(f"{told.rows} rows in {seconds:.0f} s, {told.rows / seconds:.1f} a second; plot: {told.plot}")
        check(folder, provider, told.rows)


if __name__ == "__main__":
    main()
