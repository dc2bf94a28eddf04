"""Cost of a row without opencode, from a thousand rows to a hundred thousand.

    python benchmarks/scale.py [--rows 1000,10000,100000] [--runners threads,ray] [--suffix csv] [--markdown]

The ``null`` backend answers in the worker, so the figures show the cost of this library: to read INPUT, to
claim and record rows, and to write OUTPUT. Each run has a new ledger. The largest one is run again over its
finished rows. INPUT and OUTPUT have the suffix csv, jsonl or parquet.

- rows/s, CPU ms/row: from the start of the run until the command ends. CPU time is that of the command and of
  its descendants.
- driver MB: highest resident memory of the process of the command; driver growth MB: its increase since the
  start of the run.
- second run s: seconds of the whole command over rows that are finished.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
from tables import format_table

COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
SAMPLE_INTERVAL_S = 0.1
LIMIT_S = 1800
HEAD = (
    "runner",
    "rows",
    "rows/s",
    "CPU ms/row",
    "driver MB",
    "driver growth MB",
    "output MB",
    "second run s",
)


@dataclass(slots=True)
class Sampler:
    """Samples the resources of a command. ``started`` is the time at which its run starts."""

    process: psutil.Process
    started: float | None = None
    ended: float = 0.0
    start_cpu_s: float = 0.0
    cpu_s: float = 0.0
    start_rss: int = 0
    rss: int = 0

    def sample(self) -> None:
        """Sample until the command ends."""
        known: dict[int, float] = {}
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            with suppress(psutil.Error):
                self.rss = max(self.rss, self.process.memory_info().rss)
                for process in (self.process, *self.process.children(recursive=True)):
                    with suppress(psutil.Error):
                        times = process.cpu_times()
                        known[process.pid] = times.user + times.system
            self.cpu_s = sum(known.values())
            if self.started is None:
                self.start_cpu_s, self.start_rss = self.cpu_s, self.rss
            self.ended = time.monotonic()
            time.sleep(SAMPLE_INTERVAL_S)


def run(folder: Path, source: Path, runner: str) -> Sampler:
    """Annotate the table with the ledger of the folder; raises SystemExit if a row does not complete."""
    args = [COMMAND, "annotate", str(source), "-o", str(folder / f"out{source.suffix}"), "--id-column", "id"]
    args += ["--backend", "null", "--runner", runner, "--concurrency", "64", "--json"]
    env = os.environ | {"OPENCODE_TASKS_LEDGER": str(folder / "ledger.db")}
    process = subprocess.Popen(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sampler = Sampler(psutil.Process(process.pid))
    thread = threading.Thread(target=sampler.sample, daemon=True)
    thread.start()
    assert process.stderr is not None
    assert process.stdout is not None
    log: list[str] = []
    for line in process.stderr:
        log.append(line)
        if sampler.started is None and line.startswith("run "):
            sampler.started = time.monotonic()
    output = process.stdout.read()
    thread.join()
    if process.wait(LIMIT_S) != 0:
        raise SystemExit(f"the run failed:\n{''.join(log)}")
    rows = json.loads(output)["rows"]
    if rows["completed"] != rows["total"]:
        raise SystemExit(f"not all rows completed: {rows}")
    return sampler


def write_input(path: Path, rows: int) -> None:
    """Write a table of different prompts."""
    days = "It came on day {}, was bigger than it looked, and the cat slept in its box."
    prompts = [f"Is this review positive or negative? {days.format(number)}" for number in range(rows)]
    frame = pd.DataFrame({"id": [f"r{number}" for number in range(rows)], "prompt": prompts})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)


def measure(runner: str, rows: int, suffix: str, *, repeat: bool) -> list[str]:
    """Return a line of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / f"in.{suffix}"
        write_input(source, rows)
        print(f"{runner}, {rows} rows", file=sys.stderr)
        sampler = run(folder, source, runner)
        assert sampler.started is not None
        size = (folder / f"out.{suffix}").stat().st_size
        second_run = "-"
        if repeat:
            started = time.monotonic()
            run(folder, source, runner)
            second_run = f"{time.monotonic() - started:.1f}"
        return [
            runner,
            f"{rows:,}",
            f"{rows / (sampler.ended - sampler.started):.0f}",
            f"{1000 * (sampler.cpu_s - sampler.start_cpu_s) / rows:.2f}",
            f"{sampler.rss / 1e6:.0f}",
            f"{(sampler.rss - sampler.start_rss) / 1e6:.0f}",
            f"{size / 1e6:.1f}",
            second_run,
        ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="1000,10000,100000", help="numbers of rows, one run each")
    parser.add_argument("--runners", default="threads,ray")
    parser.add_argument("--suffix", default="csv", choices=["csv", "jsonl", "parquet"])
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    counts = [int(count) for count in options.rows.split(",")]
    lines = [
        measure(runner, rows, options.suffix, repeat=rows == max(counts))
        for runner in options.runners.split(",")
        for rows in counts
    ]
    print(format_table(HEAD, lines, markdown=options.markdown))


if __name__ == "__main__":
    main()
